"""Which strategy "auto" takes, and why."""

import math
from typing import NamedTuple

import jax

from flaxrnn.cells.base import Cell

FEW_STEPS = 4
"""Up to so many steps there is nothing to gain."""
SHORT = 64
"""Up to so many steps a sequence is short,"""
LARGE_STEP = 49_152
"""and from so many values of gates in a step, over the batch, a step is large."""


class Choice(NamedTuple):
    """A strategy and the reason for it.

    Attributes:
      strategy: its name.
      reason: the reason, as half a sentence.

    Example:
      >>> from flaxrnn.cells import LSTM
      >>> from flaxrnn.strategies.auto import choose
      >>> choose("auto", LSTM(256), time=256, batch_shape=(32,), backend="cpu").strategy
      'fused'
    """

    strategy: str
    reason: str


def choose(name: str, cell: Cell, *, time: int, batch_shape: tuple[int, ...], backend: str | None = None) -> Choice:
    """The strategy to run: the one that is asked for, or for "auto" the one that was fastest in measurements.

    The measurements are of training steps on two cores of a server's CPU; on a GPU or TPU none has been made, and the
    rule is what is known of them: the fewer and the larger the matrix products, the better.

    Args:
      name: "auto" or a name in `STRATEGIES`.
      cell: the cell.
      time: how many steps there are.
      batch_shape: the batch axes.
      backend: what it runs on, "cpu", "gpu" or "tpu"; by default what JAX runs on by default.

    Returns:
      The choice. "auto" never chooses "checkpointed", which saves memory at the price of time.
    """
    if time == 0:
        return Choice("plain", "there is no step to run")
    if name != "auto":
        return Choice(name, "it was asked for")
    if not cell.passes_products:
        return Choice("plain", f"the recur of {type(cell).__name__} takes no product")
    if time <= FEW_STEPS:
        return Choice("plain", f"there are {FEW_STEPS} steps or fewer")
    backend = backend or jax.default_backend()
    step = math.prod(batch_shape) * cell.output_size * max(1, len(cell.gates))
    if backend == "cpu" and time <= SHORT and step >= LARGE_STEP:
        return Choice(
            "plain",
            f"on the CPU, {SHORT} steps or fewer of {LARGE_STEP:,} gate values or more (here {step:,}) gain nothing "
            "from larger products",
        )
    return Choice("fused", "larger matrix products are faster" + ("" if backend == "cpu" else " (not measured here)"))
