"""Other frameworks, where they are installed."""

import importlib
import os
import warnings

import pytest


def peer(name):
    """The module `name`; where it is missing its tests are skipped, but in CI they fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages do as they are imported is theirs
        if os.environ.get("CI") == "true":
            return importlib.import_module(name)
        return pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[peers]'")
