"""Which parameters of a test run by default."""

import pytest


def tiers(values, default):
    """All `values` as parameters, of which only those in `default` run without `--full`."""
    values = list(values)
    unknown = set(default) - set(values)
    assert not unknown, f"{unknown} are none of {values}"
    return [value if value in default else _slow(value) for value in values]


def _slow(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
