"""The reference: `lax.scan` over `step`. It stays simple for ever, and every other strategy is tested against it."""

from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell, State


def plain(
    cell: Cell,
    params: Any,
    state: State,
    fresh: State,
    inputs: jax.Array,
    mask: jax.Array | None,
    resets: jax.Array | None,
    *,
    time_axis: int,
    reverse: bool,
    unroll: int,
) -> tuple[State, jax.Array]:
    """Runs `cell` over `inputs` one step after the other.

    Args:
      cell: the cell.
      params: its parameters.
      state: the state before the first step.
      fresh: the state that a reset brings back.
      inputs: `[time, *batch, features]`; finite wherever the mask is False.
      mask: `[time, *batch]`, False where the state is held and the output is zero; None for no such step.
      resets: `[time, *batch]`, True where the state becomes `fresh` before the step; None for no such step.
      time_axis: which axis of the outputs is time.
      reverse: whether to begin at the end.
      unroll: how many steps XLA puts into one turn of the loop.

    Returns:
      `(state, outputs)`: the state after the last step, and the outputs, `[*batch, output_size]` with time put in as
      axis `time_axis`.
    """

    def step(state: State, now: tuple) -> tuple[State, jax.Array]:
        inputs, valid, reset = now
        before = state if reset is None else select(reset, fresh, state)
        after, output = cell.step(params, before, inputs)
        if valid is None:
            return after, output
        return select(valid, (after, output), (state, jnp.zeros_like(output)))

    state, outputs = jax.lax.scan(step, state, (inputs, mask, resets), reverse=reverse, unroll=unroll)
    return state, jnp.moveaxis(outputs, 0, time_axis)


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`jnp.where` over trees: `condition` is `[*batch]`, the leaves of `yes` and `no` are `[*batch, ...]`."""

    def leaf(yes: jax.Array, no: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (yes.ndim - condition.ndim)), yes, no)

    return jax.tree.map(leaf, yes, no)
