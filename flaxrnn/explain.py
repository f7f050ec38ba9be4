"""`explain`: which strategy a cell or a layer runs under, and why."""

from collections.abc import Iterator

import jax

from flaxrnn import checks
from flaxrnn.cells.base import Cell, check_cell
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack
from flaxrnn.strategies import check_strategy
from flaxrnn.strategies.auto import choose
from flaxrnn.strategies.checkpointed import segment_steps
from flaxrnn.strategies.fused import make_plan
from flaxrnn.strategies.fused_steps import Plan


def explain(cell: Cell | Layer, inputs: jax.Array | jax.ShapeDtypeStruct, *, strategy: str = "auto") -> str:
    """Says how a cell or a layer will be run over inputs of some shape; nothing is computed.

    Args:
      cell: a cell, or a layer made of some.
      inputs: `[*batch, time, features]`, an array or a `jax.ShapeDtypeStruct`.
      strategy: what would be passed to `flaxrnn.scan`.

    Returns:
      A line for each cell: the strategy, the reason, and how it goes through the sequence.

    Example:
      >>> import jax, flaxrnn
      >>> inputs = jax.ShapeDtypeStruct((32, 256, 64), "float32")
      >>> print(flaxrnn.explain(flaxrnn.cells.LSTM(256), inputs))
      LSTM(hidden_size=256): fused, since larger matrix products are faster; 16 segments of 16 steps, products kept
      >>> print(flaxrnn.explain(flaxrnn.RNN(flaxrnn.cells.GRU(8)), inputs, strategy="plain"))
      GRU(hidden_size=8): plain, since it was asked for
    """
    checks.check_inputs(inputs)
    check_strategy(strategy)
    features = inputs.shape[-1]
    return "\n".join(_line(part, inputs, size, strategy) for part, size in _cells(cell, features))


def _cells(cell: Cell | Layer, input_size: int) -> Iterator[tuple[Cell, int]]:
    """Each cell in a layer, with the size of its inputs."""
    if isinstance(cell, RNN):
        yield cell.cell, input_size
    elif isinstance(cell, Bidirectional):
        yield cell.forward, input_size
        yield cell.backward, input_size
    elif isinstance(cell, Stack):
        for layer in cell.layers:
            yield from _cells(layer, input_size)
            input_size = layer.output_size if isinstance(layer.output_size, int) else sum(layer.output_size)
    else:
        check_cell(cell)
        assert isinstance(cell, Cell)
        yield cell, input_size


def _line(cell: Cell, inputs: jax.Array | jax.ShapeDtypeStruct, input_size: int, strategy: str) -> str:
    *batch_shape, time, _ = inputs.shape
    choice = choose(strategy, cell, time=time, batch_shape=tuple(batch_shape))
    line = f"{cell!r}: {choice.strategy}, since {choice.reason}"
    if choice.strategy == "plain":
        return line
    if choice.strategy == "checkpointed":
        length = segment_steps(time)
        return f"{line}; {-(-time // length)} segments of {length} steps, each run again in the backward pass"
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size, inputs.dtype))
    step = jax.ShapeDtypeStruct((*batch_shape, input_size), inputs.dtype)
    state = jax.eval_shape(lambda: cell.initial_state(tuple(batch_shape), inputs.dtype))
    plan, length = make_plan(Plan(cell), params, state, step, time)
    line = f"{line}; {-(-time // length)} segments of {length} steps"
    if not cell.passes_products:
        return line
    return f"{line}, products {'kept' if plan.keeps else 'computed again in the backward pass'}"
