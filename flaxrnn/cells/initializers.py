"""How parameters begin by default. Functions of a module, not closures, so that cells can be pickled."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Normal, with the variance 1 / inputs (LeCun et al. 1998)."""
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """A random orthogonal matrix (Saxe et al. 2013)."""
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def small_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Normal, with the standard deviation 0.1."""
    return jax.nn.initializers.normal(0.1)(key, shape, dtype)
