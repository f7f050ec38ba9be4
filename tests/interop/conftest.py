"""The programs of these tests are many, small and run once."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly(compiled_quickly):
    """For all files of this folder."""
