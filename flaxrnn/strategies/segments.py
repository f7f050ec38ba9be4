"""Cutting a sequence into segments of one length, for strategies that work through it piece by piece."""

from typing import Any

import jax
import jax.numpy as jnp


def segment_length(time: int, longest: int) -> int:
    """How many steps a segment has, at most `longest`: a divisor of `time`, if one is not far below that."""
    longest = max(1, min(time, longest))
    for length in range(longest, longest // 2, -1):
        if time % length == 0:
            return length
    count = -(-time // longest)
    return -(-time // count)


def pad(
    inputs: Any, mask: jax.Array | None, resets: jax.Array | None, length: int
) -> tuple[Any, jax.Array | None, jax.Array | None]:
    """Fills up `[time, *batch, ...]` with masked steps, so that it can be cut into segments of `length` steps.

    They repeat the last step: where a cell has finite derivatives, it has them there.
    """
    first = jax.tree.leaves(inputs)[0]
    time, batch_shape = len(first), first.shape[1:-1]
    missing = -time % length
    if not missing:
        return inputs, mask, resets

    def fill(steps: jax.Array) -> jax.Array:
        return jnp.concatenate([steps, jnp.broadcast_to(steps[-1:], (missing, *steps.shape[1:]))])

    mask = jnp.ones((time, *batch_shape), bool) if mask is None else mask
    masked = jnp.zeros((missing, *batch_shape), bool)
    resets = None if resets is None else jnp.concatenate([resets, masked])
    return jax.tree.map(fill, inputs), jnp.concatenate([mask, masked]), resets


def cut(tree: Any, length: int) -> Any:
    """`[time, ...]` as `[segments, length, ...]`, for each leaf of a tree."""
    return jax.tree.map(lambda steps: steps.reshape(-1, length, *steps.shape[1:]), tree)


def join(tree: Any) -> Any:
    """`[segments, length, ...]` as `[time, ...]`: undoes `cut`."""
    return jax.tree.map(lambda steps: steps.reshape(-1, *steps.shape[2:]), tree)
