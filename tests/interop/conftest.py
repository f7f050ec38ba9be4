"""The programs of these tests are many, small and run once: XLA spends little time on making them fast."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
