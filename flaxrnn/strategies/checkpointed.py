"""O(√time) memory: of the states only each segment's first is kept, and the others are computed a second time."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell, State
from flaxrnn.strategies.fused import fused
from flaxrnn.strategies.segments import cut, join, pad, segment_length


def checkpointed(
    cell: Cell,
    params: Any,
    state: State,
    fresh: State,
    inputs: Any,
    mask: jax.Array | None,
    resets: jax.Array | None,
    *,
    time_axis: int,
    reverse: bool,
    unroll: int,
) -> tuple[State, jax.Array]:
    """Runs `cell` over `inputs`; arguments and results are those of `plain`.

    The sequence is cut into about √time segments of √time steps. Each is run by `fused`; the backward pass runs it once
    more, so that what `fused` keeps is there for one segment at a time (Chen et al. 2016, arXiv 1604.06174).
    """
    time = len(jax.tree.leaves(inputs)[0])
    length = segment_steps(time)

    def segment(state: State, steps: tuple) -> tuple[State, jax.Array]:
        return fused(cell, params, state, fresh, *steps, time_axis=0, reverse=reverse, unroll=unroll)

    segments = cut(pad(inputs, mask, resets, length), length)
    state, outputs = jax.lax.scan(jax.checkpoint(segment, prevent_cse=False), state, segments, reverse=reverse)
    return state, jnp.moveaxis(join(outputs)[:time], 0, time_axis)


def segment_steps(time: int) -> int:
    """How many steps a segment has: about the square root of `time`."""
    return segment_length(time, math.isqrt(max(time - 1, 0)) + 1)
