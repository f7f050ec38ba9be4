"""Cells by name, for programs that take the name from a command line or a configuration."""

import dataclasses
from typing import Any

from flaxrnn.cells.base import Cell
from flaxrnn.cells.conv import ConvGRU, ConvLSTM
from flaxrnn.cells.elman import Elman
from flaxrnn.cells.gru import GRU, MGU
from flaxrnn.cells.lstm import LSTM

CELLS: dict[str, type[Cell]] = {
    "elman": Elman,
    "rnn": Elman,
    "lstm": LSTM,
    "gru": GRU,
    "mgu": MGU,
    "conv_lstm": ConvLSTM,
    "conv_gru": ConvGRU,
}
"""Every cell by its name; "rnn" is another name of "elman". Add your own to have `make` know it."""


def make(name: str, **options: Any) -> Cell:
    """Makes a cell by its name.

    Args:
      name: a name in `CELLS`.
      **options: what the cell's constructor takes.

    Raises:
      ValueError: if no cell has that name, or the cell has no such option; the message lists those there are.

    Example:
      >>> from flaxrnn import cells
      >>> cells.make("gru", hidden_size=128)
      GRU(hidden_size=128)
    """
    if name not in CELLS:
        raise ValueError(f"there is no cell {name!r}: pass one of {', '.join(sorted(CELLS))}")
    cell = CELLS[name]
    known = {field.name for field in dataclasses.fields(cell) if field.init}
    if unknown := sorted(options.keys() - known):
        raise ValueError(
            f"the cell {name!r} has no option {', '.join(map(repr, unknown))}: it takes {', '.join(sorted(known))}"
        )
    return cell(**options)
