"""`explain`: which strategy runs each cell of a layer, and why."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from flaxrnn import checks
from flaxrnn.axes import Axes
from flaxrnn.cells.base import Cell, check_cell
from flaxrnn.layers import RNN, Layer, LayerCell
from flaxrnn.strategies import STRATEGIES, Strategy
from flaxrnn.strategies.auto import check_strategy, choose
from flaxrnn.strategies.base import Sequence, Steps


def explain(cell: Cell | Layer, inputs: jax.Array | jax.ShapeDtypeStruct, *, strategy: str | Strategy = "auto") -> str:
    """Says which strategy would run a cell, or each cell of a layer, and what the others would do; computes nothing.

    Args:
      cell: a cell, or a layer.
      inputs: `[*batch, time, features]`, an array or a `jax.ShapeDtypeStruct`.
      strategy: what would be passed to `flaxrnn.scan`.

    Returns:
      For each cell, a line with the strategy, the reason and how it goes through the sequence; below it, indented, a
      line for each other strategy.

    Raises:
      ValueError: if the strategy that is asked for cannot run a cell.

    Example:
      >>> import jax, flaxrnn
      >>> inputs = jax.ShapeDtypeStruct((8, 256, 3), "float32")
      >>> print(flaxrnn.explain(flaxrnn.cells.LSTM(8), inputs))  # doctest: +ELLIPSIS
      LSTM(hidden_size=8): fused, since larger matrix products are faster; all steps in one segment, products kept
        plain: one step after the other
        native: ...
        checkpointed: 16 segments of 16 steps, each run again in the backward pass
        pallas: cannot run it: it is for TPUs, and JAX runs on cpu
    """
    if not isinstance(cell, Layer):
        check_cell(cell)
        cell = RNN(cell)
    checks.check_inputs(inputs, Axes(cell.feature_axes))
    check_strategy(strategy)
    lines = (_lines(part, inputs, strategy) for part in cell.cells(inputs.shape[-1]))
    return "\n".join(line for part in lines for line in part)


def _lines(part: LayerCell, inputs: jax.Array | jax.ShapeDtypeStruct, strategy: str | Strategy) -> Iterator[str]:
    sequence = sequence_of(part, inputs)
    chosen, reason = choose(strategy, sequence)
    yield f"{part.cell!r}: {chosen.name}, since {reason}; {chosen.describe(sequence)}"
    for other in STRATEGIES.values():
        if other.name != chosen.name:
            why_not = other.why_not(sequence)
            yield f"  {other.name}: {f'cannot run it: {why_not}' if why_not else other.describe(sequence)}"


def sequence_of(part: LayerCell, inputs: jax.Array | jax.ShapeDtypeStruct) -> Sequence:
    """The shapes of what `scan` would run."""
    axes = Axes(part.cell.feature_axes)
    time, batch_axes = inputs.shape[axes.time(inputs.shape)], len(axes.batch(inputs.shape))
    *positions, _ = axes.one_step(inputs.shape)
    params = jax.eval_shape(
        functools.partial(part.cell.init, input_size=part.input_size, dtype=inputs.dtype), jax.random.key(0)
    )
    dtype = jnp.result_type(inputs.dtype, *(leaf.dtype for leaf in jax.tree.leaves(params)))
    state = jax.eval_shape(lambda params: part.cell.begin(params, tuple(positions), dtype), params)
    steps = Steps(jax.ShapeDtypeStruct((time, *positions, part.input_size), inputs.dtype))
    return Sequence(part.cell, params, state, state, steps, time_axis=batch_axes, reverse=part.reverse)
