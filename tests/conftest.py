"""What all tests share: Keras runs on JAX, and `x64` gives a test double precision."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import pytest


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def _programs_are_let_go():
    """After each file: each compiled program holds several of the 65,530 memory maps that Linux gives a process."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly():
    """For files whose programs are many, small and run once: XLA spends little time on making them fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
