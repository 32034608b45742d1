import pytest

from dream_env.errors import ConfigError
from dream_env.json_options import json_options


def test_lists_are_tuples_as_options_have_them():
    assert json_options('{"hidden": [8, 4], "form": "logit"}', "options are") == {"hidden": (8, 4), "form": "logit"}
    assert json_options("{}", "options are") == {}


@pytest.mark.parametrize("text", ["vf=1", "[1]", ""])
def test_what_is_no_object_is_shown(text):
    with pytest.raises(ConfigError) as caught:
        json_options(text, "options are")
    assert str(caught.value).startswith(f"options are a JSON object, not {text!r}")
