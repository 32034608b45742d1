"""Options that no flag knows by name, of a part or of somebody else's algorithm: a JSON object in one text."""

import json
from typing import Any

from dream_env.errors import ConfigError


def json_options(text: str, what: str) -> dict[str, Any]:
    """Options by name; lists as tuples, which is what options have where JSON has lists.

    Args:
        text: as it was given, ``{"vf_coef": 1.0}``.
        what: the first words of a complaint, as "options are".

    Raises:
        ConfigError: if it is no JSON object.
    """
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} a JSON object, not {text!r} ({error})") from error
    if not isinstance(options, dict):
        raise ConfigError(f"{what} a JSON object, not {text!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
