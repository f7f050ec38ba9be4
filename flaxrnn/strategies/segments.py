"""Cutting a sequence into segments of one length, for strategies that work through it piece by piece."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import State
from flaxrnn.strategies.base import Sequence, Steps

Segment = Callable[[State, Steps], tuple[State, jax.Array]]


def segment_length(time: int, longest: int) -> int:
    """How many steps a segment has, at most `longest`: a divisor of `time`, if one is not far below that."""
    longest = max(1, min(time, longest))
    for length in range(longest, longest // 2, -1):
        if time % length == 0:
            return length
    count = -(-time // longest)
    return -(-time // count)


def _cut(steps: Steps, shape: tuple[int, ...], length: int) -> Steps:
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


def in_segments(run: Segment, sequence: Sequence, length: int) -> tuple[State, jax.Array]:
    """Runs one segment of at most `length` steps after the other, as `Strategy.run` does.

    `run` takes `(state, steps)` and gives back `(state, outputs)`, `[time, *batch, output_size]`.
    """
    time = sequence.shape[0]
    if length >= time:
        state, outputs = run(sequence.state, sequence.steps)
    else:
        steps = _cut(sequence.steps, sequence.shape, length)
        state, parts = jax.lax.scan(run, sequence.state, steps, reverse=sequence.reverse)
        outputs = parts.reshape(parts.shape[0] * length, *parts.shape[2:])[:time]
    return state, jnp.moveaxis(outputs, 0, sequence.time_axis)
