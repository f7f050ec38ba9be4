"""Without the compilers these tests are skipped, except where `FLAXRNN_ACCELERATORS` says that they must be there."""

import os

import jax
import pytest

from benchmarks import compilers

TESTED = "FLAXRNN_ACCELERATORS"


def pytest_collection_modifyitems(items):
    missing = compilers.missing()
    if missing and not os.environ.get(TESTED):
        for item in items:
            if item.path.is_relative_to(os.path.dirname(__file__)):
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="module", autouse=True)
def _compilers_are_here():
    missing = compilers.missing()
    assert not missing, f"{TESTED} is set, but {missing}"
    yield
    with compilers.tracing_for("cpu"):  # what was traced for another backend is let go
        jax.clear_caches()
