"""Weights of Haiku's `LSTM`, `GRU`, `VanillaRNN` and `Conv2DLSTM`, wherever they stand among a model's parameters."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, ConvLSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import relu
from flaxrnn.interop.arithmetic import ANY, Cells
from flaxrnn.interop.arrays import Arrays
from flaxrnn.interop.blocks import add, add_to_forget, reorder
from flaxrnn.interop.conv import conv_lstm, read_conv, write_conv
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place
from flaxrnn.layers import Layer

CONV = ("input_to_hidden/w", "input_to_hidden/b", "hidden_to_hidden/w", "hidden_to_hidden/b")


class _Haiku(Layout):
    framework = "Haiku"
    leaves = ("linear/w", "linear/b", "linear_1/w", "linear_1/b", "w_i", "w_h", "b", *CONV)
    optional = ("linear_1/b",)
    cells: ClassVar[Cells] = {
        LSTM: {},
        GRU: {"reset_after": (False,)},
        Elman: {"activation": (relu,)},
        ConvLSTM: {"features": ANY, "kernel_size": ANY},
    }
    reasons: ClassVar[dict[str, str]] = {
        "reset_after": "its reset gate acts before the matrix product",
        "activation": "its VanillaRNN is a ReLU network",
    }

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        if isinstance(cell, ConvLSTM):
            return write_conv(cell, params, CONV)
        if isinstance(cell, GRU):
            kernels = params["kernel"], params["recurrent_kernel"], params["bias"]
            return {name: _to_gru(blocks) for name, blocks in zip(("w_i", "w_h", "b"), kernels, strict=True)}
        if isinstance(cell, LSTM):
            kernel = np.concatenate([params["kernel"], params["recurrent_kernel"]])
            bias = add_to_forget(cell, params["bias"], -1)
            return {"linear/w": reorder(kernel, "ifgo", "igfo"), "linear/b": reorder(bias, "ifgo", "igfo")}
        return {
            "linear/w": params["kernel"],
            "linear/b": params["bias"],
            "linear_1/w": params["recurrent_kernel"],
            "linear_1/b": np.zeros_like(params["bias"]),
        }

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        if isinstance(cell, ConvLSTM):
            return read_conv(cell, arrays, CONV)
        if isinstance(cell, GRU):
            names = {"kernel": "w_i", "recurrent_kernel": "w_h", "bias": "b"}
            return {name: _from_gru(arrays[theirs]) for name, theirs in names.items()}
        if isinstance(cell, LSTM):
            kernel = reorder(arrays["linear/w"], "igfo", "ifgo")
            bias = add_to_forget(cell, reorder(arrays["linear/b"], "igfo", "ifgo"), 1)
            inputs = len(kernel) - cell.hidden_size
            return {"kernel": kernel[:inputs], "recurrent_kernel": kernel[inputs:], "bias": bias}
        return {
            "kernel": arrays["linear/w"],
            "recurrent_kernel": arrays["linear_1/w"],
            "bias": add(arrays["linear/b"], arrays["linear_1/b"]),
        }

    def cell_for(self, site: Site) -> Cell | None:
        if {"input_to_hidden/w", "hidden_to_hidden/w"} <= site.arrays.keys():
            return conv_lstm(site, "hidden_to_hidden/w")
        if {"w_i", "w_h", "b"} <= site.arrays.keys():
            return GRU(site.matrix("w_h")[0], reset_after=False)
        if not {"linear/w", "linear/b"} <= site.arrays.keys() or not site.path:  # an LSTM's is within it, so has a path
            return None
        width = site.size("linear/b")
        return Elman(width, activation=relu) if "linear_1/w" in site.arrays else LSTM(width // 4)

    def path(self, place: Place, before: list[Place]) -> str:
        name = _name(place.cell)
        number = sum(_name(other.cell) == name for other in before)
        return name + (f"_{number}" if number else "")


def import_weights(layer: Layer, params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of a Haiku model's.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`: the GRU with `reset_after=False`, the Elman network with
        `jax.nn.relu`, which are Haiku's.
      params: what a transformed function's `init` gives, `{"lstm/linear": {"w": ..., "b": ...}, ...}`. Cells of a kind
        are put into the order of the numbers in their names, in which Haiku makes them; of a `Bidirectional` the
        forward one must have been made first.
      prefix: what the names of the network begin with, such as `"encoder/~/"`; other entries are then left out.

    Returns:
      The parameters, as `layer.init` makes them. The 1 that Haiku adds to the forget gate at run time is in the LSTM's
      bias. The weights of the GRU's update gate have changed their sign, since Haiku's keeps what flaxrnn's renews.

    Raises:
      ValueError: if Haiku has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import numpy as np
      >>> from flaxrnn import interop
      >>> params = {"lstm/linear": {"w": np.ones([7, 16], np.float32), "b": np.zeros(16, np.float32)}}
      >>> layer = interop.haiku.layer_for(params)
      >>> layer
      RNN(cell=LSTM(hidden_size=4), reverse=False, include_initial=False)
      >>> print(interop.haiku.import_weights(layer, params)["bias"])  # gates i, f, g, o
      [0. 0. 0. 0. 1. 1. 1. 1. 0. 0. 0. 0. 0. 0. 0. 0.]
    """
    return _Haiku().import_weights(layer, params, prefix)


def export_weights(layer: Layer, params: Any) -> dict[str, dict[str, np.ndarray]]:
    """Haiku's parameters, `{module name: {"w": ..., "b": ...}}`, out of those of `layer`.

    The names are those of cells that are made in the order of the layer, outside of other modules. Haiku adds 1 to the
    LSTM's forget gate at run time, which is taken off its bias here: what lies outside [0.5, 2] is rounded by that to
    the precision of 1.

    Raises:
      ValueError: if Haiku has no such layer: an LSTM with peepholes, coupled gates, a projection or clipping, a GRU
        that resets after its product, an Elman network that is not of ReLUs.
    """
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, array in _Haiku().export_weights(layer, params).items():
        module, entry = name.rsplit("/", 1)
        modules.setdefault(module, {})[entry] = array
    return modules


def layer_for(params: Mapping[str, Any], prefix: str = "") -> Layer:
    """The layer that some parameters of Haiku's are of, by their names and shapes; see `import_weights`.

    Returns:
      An `RNN` for one cell, a `Stack` for several. That two of them read the same inputs from both ends is not to be
      seen in Haiku's parameters: make a `Bidirectional` by hand.
    """
    return _Haiku().layer_for(params, prefix)


def _name(cell: Cell) -> str:
    """What Haiku calls the first module of this kind."""
    if isinstance(cell, ConvLSTM):
        return f"conv{len(cell.kernel_size)}_dlstm"
    return {LSTM: "lstm", GRU: "gru", Elman: "vanilla_rnn"}[type(cell)]


def _to_gru(blocks: np.ndarray) -> np.ndarray:
    """Gates r, z, n with h' = z h + (1 - z) n as Haiku's z, r, a with h' = (1 - z) h + z a."""
    r, z, n = np.split(blocks, 3, axis=-1)
    return np.concatenate([-z, r, n], axis=-1)


def _from_gru(blocks: np.ndarray) -> np.ndarray:
    z, r, n = np.split(blocks, 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)
