"""What happens inside a recurrent layer while it reads: each gate and the state at each step."""

from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells import GRU, LSTM, GatedCell, MatrixProducts, Zoneout
from flaxrnn.cells.base import Cell, Params

ORDER = ("input", "forget", "candidate", "output", "reset", "update", "cell", "hidden")


def read(cell: Cell, params: Params, inputs: jax.Array) -> dict[str, jax.Array]:
    """The gates and the state of a cell at each step of one sequence.

    Args:
      cell: the cell; of an LSTM and a GRU, under zoneout too, the gates are shown.
      params: its parameters.
      inputs: `[time, features]`.

    Returns:
      `[time, features]` by name: the gates ("input", "forget", ...), and then the fields of the state ("cell",
      "hidden").
    """
    gated = cell.cell if isinstance(cell, Zoneout) else cell  # zoneout mixes what its cell has computed

    def step(state: Any, inputs: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        after, _ = cell.step(params, state, inputs)
        seen = {}
        if isinstance(gated, LSTM | GRU):
            computed, _ = gated.step(params, state, inputs)
            seen = _gates(gated, params, state, computed, inputs)
        fields = after._asdict() if hasattr(after, "_asdict") else {}
        return after, seen | {name: fields[name] for name in ("cell", "hidden") if name in fields}

    _, steps = jax.lax.scan(step, cell.begin(params), inputs)
    return {name: steps[name] for name in ORDER if name in steps}  # JAX has sorted them by name


def _gates(cell: GatedCell, params: Params, before: Any, after: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """The gates of one step, by the formulas of the cell, from the state before it and after it."""
    product = MatrixProducts(cell, params)
    projected = cell.project(params, inputs, product)
    recurrent = cell.recurrent(params, before, projected, product)
    sums = dict(zip(cell.gates, map(jnp.add, projected, recurrent), strict=True))
    if isinstance(cell, LSTM) and cell.peephole:
        seen = [name for name in cell.gates if name != "candidate"]
        for row, name in enumerate(seen):
            sums[name] += params["peephole"][row] * (after.cell if name == "output" else before.cell)
    gates = {name: jax.nn.sigmoid(value) for name, value in sums.items() if name != "candidate"}
    if isinstance(cell, LSTM):
        if cell.coupled:
            gates = {"input": 1 - gates["forget"], **gates}
        return {**gates, "candidate": jnp.tanh(sums["candidate"])}
    return gates
