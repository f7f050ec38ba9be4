"""Weights of TF1's `BasicRNNCell`, `BasicLSTMCell`, `LSTMCell`, `GRUCell` and contrib's coupled LSTM, by name."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arithmetic import ANY, Cells
from flaxrnn.interop.arrays import Arrays
from flaxrnn.interop.blocks import add_to_forget, reorder
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place
from flaxrnn.layers import Layer

COUPLED = {"kernel": "W_0", "bias": "B", "projection/kernel": "W_P_0", "w_f_diag": "W_F_diag", "w_o_diag": "W_O_diag"}
"""What contrib's CoupledInputForgetGateLSTMCell calls the variables of an LSTMCell (one shard of each)."""


@dataclasses.dataclass(frozen=True)
class _TF1(Layout):
    forget_bias: float

    def __post_init__(self) -> None:
        if not isinstance(self.forget_bias, int | float) or not math.isfinite(self.forget_bias):
            raise ValueError(f"forget_bias is {self.forget_bias!r}: pass a number, as the TF1 cells have it")

    framework = "TF1"
    leaves = (
        *("kernel", "bias", "w_i_diag", "w_f_diag", "w_o_diag", "projection/kernel"),
        *("gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"),
        *COUPLED.values(),
    )
    cells: ClassVar[Cells] = {
        LSTM: {"peephole": ANY, "coupled": ANY, "projection_size": ANY, "cell_clip": ANY, "projection_clip": ANY},
        GRU: {"reset_after": (False,)},
        Elman: {"activation": ANY},
    }
    reasons: ClassVar[dict[str, str]] = {"reset_after": "its reset gate acts before the matrix product"}

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        kernel, bias = np.concatenate([params["kernel"], params["recurrent_kernel"]]), params["bias"]
        if isinstance(cell, GRU):
            gates = 2 * cell.hidden_size
            return {
                "gates/kernel": kernel[:, :gates],
                "gates/bias": bias[:gates],
                "candidate/kernel": kernel[:, gates:],
                "candidate/bias": bias[gates:],
            }
        if not isinstance(cell, LSTM):
            return {"kernel": kernel, "bias": bias}
        order = ("fgo", "gfo") if cell.coupled else ("ifgo", "igfo")
        arrays = {
            "kernel": reorder(kernel, *order),
            "bias": reorder(add_to_forget(cell, bias, -self.forget_bias), *order),
        }
        gates_seen = "fo" if cell.coupled else "ifo"
        if cell.peephole:
            arrays |= {f"w_{gate}_diag": row for gate, row in zip(gates_seen, params["peephole"], strict=True)}
        if cell.projection_size is not None:
            arrays["projection/kernel"] = params["projection_kernel"]
        return {COUPLED[name]: array for name, array in arrays.items()} if cell.coupled else arrays

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        if isinstance(cell, GRU):
            kernel = np.concatenate([arrays["gates/kernel"], arrays["candidate/kernel"]], axis=1)
            bias = np.concatenate([arrays["gates/bias"], arrays["candidate/bias"]])
            return self._params(cell, kernel, bias)
        if not isinstance(cell, LSTM):
            return self._params(cell, arrays["kernel"], arrays["bias"])
        if cell.coupled:
            arrays = {name: arrays[theirs] for name, theirs in COUPLED.items() if theirs in arrays}
        order = ("gfo", "fgo") if cell.coupled else ("igfo", "ifgo")
        bias = add_to_forget(cell, reorder(arrays["bias"], *order), self.forget_bias)
        params = self._params(cell, reorder(arrays["kernel"], *order), bias)
        if cell.peephole:
            params["peephole"] = np.stack([arrays[f"w_{gate}_diag"] for gate in ("fo" if cell.coupled else "ifo")])
        if cell.projection_size is not None:
            params["projection_kernel"] = arrays["projection/kernel"]
        return params

    def cell_for(self, site: Site) -> Cell | None:
        arrays = site.arrays
        coupled = {"W_0", "B"} <= arrays.keys()
        if coupled:
            arrays = {name: arrays[theirs] for name, theirs in COUPLED.items() if theirs in arrays}
        if {"gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"} <= arrays.keys():
            return GRU(site.size("candidate/bias"), reset_after=False)
        if not {"kernel", "bias"} <= arrays.keys():
            return None
        width = site.size("B" if coupled else "bias")
        peephole = "w_f_diag" in arrays
        projection = arrays["projection/kernel"].shape[-1] if "projection/kernel" in arrays else None
        if coupled or peephole or projection or re.search(r"lstm_cell(_\d+)?$", site.path):
            size = width // (3 if coupled else 4)
            return LSTM(size, peephole=peephole, coupled=coupled, projection_size=projection)
        return Elman(width) if re.search(r"rnn_cell(_\d+)?$", site.path) else None

    def path(self, place: Place, before: list[Place]) -> str:
        cell = place.cell
        kind = {LSTM: "lstm_cell", GRU: "gru_cell", Elman: "basic_rnn_cell"}[type(cell)]
        if isinstance(cell, LSTM) and cell.coupled:
            kind = "coupled_input_forget_gate_lstm_cell"
        if place.direction:
            below = "" if place.number is None else f"stack_bidirectional_rnn/cell_{place.number}/"
            return f"{below}bidirectional_rnn/{'fw' if place.direction == 'forward' else 'bw'}/{kind}"
        return f"rnn/{'' if place.number is None else f'multi_rnn_cell/cell_{place.number}/'}{kind}"

    def _params(self, cell: Cell, kernel: np.ndarray, bias: np.ndarray) -> Arrays:
        inputs = len(kernel) - cell.output_size
        return {"kernel": kernel[:inputs], "recurrent_kernel": kernel[inputs:], "bias": bias}


def import_weights(
    layer: Layer, variables: Mapping[str, Any], prefix: str = "", *, forget_bias: float = 1.0
) -> dict[str, Any]:
    """The parameters of `layer` out of a checkpoint's variables.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      variables: arrays by the names of the variables, such as `"rnn/lstm_cell/kernel"`, without `":0"`: what
        `tf.train.load_checkpoint(path).get_tensor(name)` gives. Leave out the optimizer's.
      prefix: what the names of the network begin with among others; those are then left out.
      forget_bias: the `forget_bias` of the LSTM cells, which TF1 adds to the forget gate at run time; here it becomes
        a part of the bias. TF1's default is 1.

    Returns:
      The parameters, as `layer.init` makes them.

    Raises:
      ValueError: if TF1 has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import numpy as np
      >>> from flaxrnn import interop
      >>> variables = {"rnn/lstm_cell/kernel": np.ones([7, 16], np.float32), "rnn/lstm_cell/bias": np.zeros(16, "f")}
      >>> layer = interop.tf1.layer_for(variables)
      >>> layer
      RNN(cell=LSTM(hidden_size=4), reverse=False, include_initial=False)
      >>> print(interop.tf1.import_weights(layer, variables)["bias"])  # gates i, f, g, o
      [0. 0. 0. 0. 1. 1. 1. 1. 0. 0. 0. 0. 0. 0. 0. 0.]
    """
    return _TF1(forget_bias).import_weights(layer, variables, prefix)


def export_weights(layer: Layer, params: Any, *, forget_bias: float = 1.0) -> Arrays:
    """Arrays by the names of TF1's variables, out of the parameters of `layer`.

    Args:
      layer: the layer.
      params: its parameters.
      forget_bias: the `forget_bias` of the LSTM cells that will read them; it is taken off the bias. That rounds what
        lies outside [0.5, 2] (for 1.0) to the precision of 1: write with `forget_bias=0.0`, for cells that are made so,
        to have every bit.

    Raises:
      ValueError: if TF1 has no such layer: a GRU that resets after its product, or layer normalization.
    """
    return _TF1(forget_bias).export_weights(layer, params)


def layer_for(variables: Mapping[str, Any], prefix: str = "") -> Layer:
    """The layer that some variables are of, by their names and shapes.

    Clipping is not among the variables: give the layer's LSTM its `cell_clip` and `projection_clip` by hand. An LSTM
    and an RNN are told apart by the name of their scope, `lstm_cell` or `rnn_cell` at its end.

    Returns:
      An `RNN` or a `Bidirectional` (of scopes `fw` and `bw`) for one layer, a `Stack` for several.
    """
    return _TF1(0.0).layer_for(variables, prefix)
