"""The options that describe recurrent layers, and the layers that they describe."""

import dataclasses
import math
from typing import Annotated, Any

import jax
import tyro

import flaxrnn
from train.errors import UserError
from train.options import RunOptions, check_positive, check_probability, default, flag


def cell_names() -> list[str]:
    """The cells for sequences of vectors; `ConvLSTM` and `ConvGRU` are for sequences of images."""
    return [name for name, cell in flaxrnn.cells.CELLS.items() if not issubclass(cell, flaxrnn.cells.ConvCell)]


CellName = Annotated[str, tyro.conf.arg(metavar="|".join(cell_names()))]
# options of a cell, with the values at which they need not be passed on
CELL_OPTIONS = dict(
    peephole=None, coupled=None, forget_bias=None, reset_after=None, layer_norm=False, recurrent_dropout=0.0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions(RunOptions):
    """Recurrent layers, all of one cell, and how a run of them is kept."""

    cell: CellName = "gru"
    """What happens in one time step."""
    batch_size: int = 64
    """Sequences in a training step."""
    hidden_size: int = 128
    """Features of the hidden state, in each direction."""
    layers: int = 1
    """Recurrent layers on top of each other."""
    peephole: Annotated[bool | None, default("lstm; default: no")] = None
    """The gates see the cell state."""
    coupled: Annotated[bool | None, default("lstm; default: no")] = None
    """The input gate is one minus the forget gate."""
    forget_bias: Annotated[float | None, default("lstm; default: 1.0")] = None
    """Where the bias of the forget gate begins."""
    reset_after: Annotated[bool | None, default("gru, mgu; default: yes")] = None
    """The reset gate acts after the matrix product; before it in the GRU of arXiv 1406.1078v3."""
    dropout: float = 0.0
    """How many features are dropped between the layers, and before the last dense one."""
    recurrent_dropout: float = 0.0
    """How many features of the candidate are dropped, the same ones at all steps."""
    zoneout: float = 0.0
    """How many features of the state stay what they were, at each step anew."""
    layer_norm: bool = False
    """Layer normalization inside the gates."""
    residual: bool = False
    """Each layer but the first adds its input to its output."""

    def check(self) -> None:
        super().check()
        check_positive(self, "batch_size", "hidden_size", "layers")
        check_probability(self, "dropout", "recurrent_dropout", "zoneout")
        if self.forget_bias is not None and not math.isfinite(self.forget_bias):
            raise UserError(f"--forget-bias={self.forget_bias}: pass a finite number")
        if self.residual and self.layers == 1:
            raise UserError("--residual needs a layer to add to: pass --layers=2 or more")

    def make_task(self, answers: int) -> Any:
        """The `train.loop.Task` that the options describe, for so many answers where its data decide how many."""
        raise NotImplementedError

    def make_layers(self, bidirectional: bool = False) -> flaxrnn.Stack:
        """The layers that the options describe.

        Raises:
          UserError: if they do not describe any.
        """
        cell = self.make_cell()
        layer = flaxrnn.Bidirectional(cell, cell) if bidirectional else flaxrnn.RNN(cell)
        return flaxrnn.Stack([layer] * self.layers, self.dropout, self.residual)

    def make_cell(self) -> flaxrnn.cells.Cell:
        """The cell that the options describe."""
        if self.cell not in cell_names():
            raise UserError(f"--cell={self.cell}: there is no such cell: pass one of {', '.join(cell_names())}")
        options = {name: getattr(self, name) for name, usual in CELL_OPTIONS.items() if getattr(self, name) != usual}
        for name in options:
            owners = [cell for cell in cell_names() if name in option_names(cell)]
            if self.cell not in owners:
                given = flag(f"no_{name}" if options[name] is False else name)
                raise UserError(f"{given} does not go with --cell={self.cell}: it is an option of {', '.join(owners)}")
        try:
            cell = flaxrnn.cells.make(self.cell, hidden_size=self.hidden_size, **options)
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.zoneout:
            has_memory = hasattr(jax.eval_shape(cell.initial_state), "cell")
            cell = flaxrnn.cells.Zoneout(cell, self.zoneout, self.zoneout if has_memory else 0.0)
        return cell


def option_names(cell: str) -> set[str]:
    """The names of the options that a cell's constructor takes."""
    return {field.name for field in dataclasses.fields(flaxrnn.cells.CELLS[cell])}
