"""How tests draw data and compare numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, *shape, dtype=np.float32):
    """Random numbers, different everywhere: an order mistake cannot hide in them."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def random_params(cell_or_layer, input_size, seed=0, dtype=jnp.float32):
    """Parameters with every entry random, the biases and peepholes too, which `init` leaves at constants."""
    init = functools.partial(cell_or_layer.init, input_size=input_size, dtype=dtype)
    draw = np.random.default_rng(seed).normal
    shapes = jax.eval_shape(init, jax.random.key(seed))
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * draw(size=leaf.shape), leaf.dtype), shapes)


def random_state(cell_or_layer, batch_shape=(), seed=0, dtype=jnp.float32):
    """A state with every entry random."""
    state = cell_or_layer.initial_state(batch_shape, dtype)
    leaves, structure = jax.tree.flatten(state)
    drawn = [normal(seed + number, *leaf.shape).astype(leaf.dtype) * 0.5 for number, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in drawn])


def assert_close(actual, expected, rtol=1e-5):
    """Two trees agree to `rtol`, relative to the largest number of each expected array."""
    jax.tree.map(lambda a, e: _assert_array_close(np.asarray(a), np.asarray(e), rtol), actual, expected)


def _assert_array_close(actual, expected, rtol):
    assert actual.shape == expected.shape
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * scale if scale else 0.0)


def assert_equal(actual, expected):
    """Two trees agree bit for bit, and in their structure and dtypes."""
    chex.assert_trees_all_equal(actual, expected, strict=True)
