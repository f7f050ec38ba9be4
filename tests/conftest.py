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
