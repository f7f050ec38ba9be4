"""Cutting a sequence into segments of one length, for strategies that work through it piece by piece."""

from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.strategies.base import Steps


def segment_length(time: int, longest: int) -> int:
    """How many steps a segment has, at most `longest`: a divisor of `time`, if one is not far below that."""
    longest = max(1, min(time, longest))
    for length in range(longest, longest // 2, -1):
        if time % length == 0:
            return length
    count = -(-time // longest)
    return -(-time // count)


def cut(steps: Steps, shape: tuple[int, ...], length: int) -> Steps:
    """`[time, ...]` as `[segments, length, ...]`, filled up with masked steps; `shape` is `(time, *batch)`.

    These repeat the last step: where a cell has finite derivatives, it has them there.
    """
    time = shape[0]
    missing = -time % length
    if missing:
        mask = jnp.ones(shape, bool) if steps.mask is None else steps.mask
        steps = jax.tree.map(lambda leaf: jnp.concatenate([leaf, *[leaf[-1:]] * missing]), steps)
        mask = jnp.concatenate([mask, jnp.zeros((missing, *shape[1:]), bool)])
        steps = steps._replace(mask=mask)
    count = (time + missing) // length
    return jax.tree.map(lambda leaf: leaf.reshape(count, length, *leaf.shape[1:]), steps)


def join(tree: Any) -> Any:
    """`[segments, length, ...]` as `[time, ...]`: undoes `cut`, but for the steps that it added."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), tree)
