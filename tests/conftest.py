"""Fixtures that several test files share."""

import jaxtyping
import pytest


@pytest.fixture
def _without_runtime_types():
    # The type checker that tests run under would refuse wrong values before our own, friendlier checks.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
