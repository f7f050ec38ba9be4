"""ONNX's own LSTM, GRU and RNN operators: their arrays, and whole models of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import tanh
from flaxrnn.interop.arrays import Arrays, check_no_prefix
from flaxrnn.interop.blocks import add_biases, part_bias, reorder
from flaxrnn.interop.layout import ANY, Cells, Layout, Site
from flaxrnn.interop.places import Place, check_sizes, join_params, places
from flaxrnn.layers import Layer

ACTIVATIONS = {"Tanh": tanh, "Relu": jax.nn.relu, "Sigmoid": jax.nn.sigmoid}
"""The functions that an Elman network may have, by ONNX's name."""


class ONNXLayout(Layout):
    """The arrays of one direction of one operator."""

    framework = "ONNX"
    leaves = ("W", "R", "B", "P")
    optional = ("B",)
    cells: ClassVar[Cells] = {
        LSTM: {"peephole": ANY, "coupled": ANY},
        GRU: {"reset_after": ANY},
        Elman: {"activation": (tanh, jax.nn.relu, jax.nn.sigmoid, jnp.tanh)},
    }

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        inside, outside = part_bias(params)
        arrays = {"W": params["kernel"], "R": params["recurrent_kernel"], "Wb": inside, "Rb": outside}
        if isinstance(cell, LSTM) and cell.peephole:
            arrays["P"] = np.concatenate(params["peephole"])
        if isinstance(cell, LSTM):
            if cell.coupled:
                arrays = {name: _with_input_gate(array, 2 if name == "P" else 3) for name, array in arrays.items()}
            arrays = {name: reorder(array, *_lstm_order(name)) for name, array in arrays.items()}
        elif isinstance(cell, GRU):
            arrays = {name: reorder(array, "rzn", "zrn") for name, array in arrays.items()}
        bias = {"B": np.concatenate([arrays.pop("Wb"), arrays.pop("Rb")])}
        return {name: array.T for name, array in arrays.items()} | bias

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        inside, outside = np.split(arrays["B"], 2)
        arrays = {name: array.T for name, array in arrays.items() if name != "B"} | {"Wb": inside, "Rb": outside}
        if isinstance(cell, LSTM):
            arrays = {name: reorder(array, *_lstm_order(name)[::-1]) for name, array in arrays.items()}
            if cell.coupled:
                arrays = {name: _without_input_gate(array, 3 if name == "P" else 4) for name, array in arrays.items()}
        elif isinstance(cell, GRU):
            arrays = {name: reorder(array, "zrn", "rzn") for name, array in arrays.items()}
        params = {
            "kernel": arrays["W"],
            "recurrent_kernel": arrays["R"],
            **add_biases(cell, arrays["Wb"], arrays["Rb"]),
        }
        if "P" in arrays:
            params["peephole"] = arrays["P"].reshape(-1, cell.output_size)
        return params

    def cell_for(self, site: Site) -> Cell | None:
        if not {"W", "R"} <= site.arrays.keys():
            return None
        rows, size = site.matrix("R")
        kind = self.kind(rows, size)
        if kind is LSTM:
            return LSTM(size, peephole="P" in site.arrays)
        return None if kind is None else kind(size)

    def path(self, place: Place, before: list[Place]) -> str:
        return "/".join([f"layer_{place.number or 0}"] + [place.direction] * bool(place.direction))


def import_weights(layer: Layer, source: Any, prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of an ONNX model.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      source: an `onnx.ModelProto`, such as `onnx.load` gives, of whose graph the LSTM, GRU and RNN operators are read,
        in their order; or arrays, as `export_weights` makes them.
      prefix: for arrays, what their names begin with among others; those are then left out.

    Returns:
      The parameters, as `layer.init` makes them. Of coupled gates (`input_forget`) ONNX's input gate is the negated
      forget gate, since i = sigmoid(x) = 1 - sigmoid(-x).

    Raises:
      ValueError: if ONNX or flaxrnn has no such layer, or the model is of another one.
    """
    if isinstance(source, Mapping):
        return ONNXLayout().import_weights(layer, source, prefix)
    check_no_prefix(prefix)
    from flaxrnn.interop.onnx_models import read_model

    given, sites = read_model(source)
    wanted, found = ONNXLayout().places(layer), places(given)
    if [_arithmetic(place) for place in wanted] != [_arithmetic(place) for place in found]:
        raise ValueError(f"the layer is {layer}, but the model is of {given}: pass that, as layer_for makes it")
    cells = [ONNXLayout().cell_params(place.cell, site) for place, site in zip(wanted, sites, strict=True)]
    params = join_params(layer, iter(cells))
    check_sizes(layer, params)
    return params


def export_weights(layer: Layer, params: Any) -> Arrays:
    """The arrays W, R, B and P of each operator and direction, by name; `export_model` makes a model of them.

    Raises:
      ValueError: if ONNX has no such layer: an LSTM with a projection or clipping, or other activations.

    Example:
      >>> import jax, flaxrnn
      >>> from flaxrnn import interop
      >>> layer = flaxrnn.RNN(flaxrnn.cells.LSTM(4, peephole=True))
      >>> arrays = interop.onnx.export_weights(layer, layer.init(jax.random.key(0), input_size=3))
      >>> {name: array.shape for name, array in arrays.items()}
      {'layer_0/W': (16, 3), 'layer_0/R': (16, 4), 'layer_0/P': (12,), 'layer_0/B': (32,)}
    """
    return ONNXLayout().export_weights(layer, params)


def export_model(
    layer: Layer, params: Any, *, lengths: bool = False, initial_state: bool = False, opset: int = 17
) -> Any:
    """An `onnx.ModelProto` that does what `layer.apply` does, by ONNX's own recurrent operators.

    Its input is `inputs`, `[batch, time, features]`, with any batch and time. Its outputs are `outputs`, `[batch, time,
    output_size]`, and the final states, `[batch, size]`, called `hidden` and `cell`; in a `Bidirectional`
    `forward_hidden`, and so on, in a `Stack` `layer_0_hidden`, and so on.

    For a length of 0 ONNX Runtime gives final states of 0, and not the initial ones.

    Args:
      layer: the layer; dropout is left out, as in evaluation.
      params: its parameters, in float32, float64 or float16. (ONNX Runtime runs float32 alone on the CPU.)
      lengths: whether the model has an input `lengths`, `[batch]`, int32.
      initial_state: whether the model has an input for each state, `initial_hidden` and so on.
      opset: the version of ONNX's operators, 14 or later.

    Raises:
      ValueError: if ONNX has no such layer: see `export_weights`, or a pair of outputs (`merge=None`).
    """
    from flaxrnn.interop.onnx_models import write_model

    arrays = export_weights(layer, params)
    return write_model(layer, arrays, lengths=lengths, initial_state=initial_state, opset=opset)


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that an ONNX model's recurrent operators are.

    Args:
      source: an `onnx.ModelProto`; or arrays, as `export_weights` makes them, which do not say whether gates are
        coupled (they are taken as not), where a GRU's reset gate acts (after the product), and how an RNN squashes
        (tanh).
      prefix: as in `import_weights`.

    Returns:
      An `RNN` or a `Bidirectional` for one operator, a `Stack` for several. What else is in the graph is not looked at.

    Raises:
      ValueError: if flaxrnn has no such layer: other activations, `clip`, weights that are not constant.
    """
    if isinstance(source, Mapping):
        return ONNXLayout().layer_for(source, prefix)
    check_no_prefix(prefix)
    from flaxrnn.interop.onnx_models import read_model

    return read_model(source)[0]


def _arithmetic(place: Place) -> tuple[Any, ...]:
    """What a cell computes, whatever its parameters began with."""
    cell = place.cell
    names = ("hidden_size", "peephole", "coupled", "reset_after", "activation")
    values = [getattr(cell, name, None) for name in names]
    return (type(cell), place.reverse, *(tanh if value is jnp.tanh else value for value in values))


def _lstm_order(name: str) -> tuple[str, str]:
    """The gates' order here and in ONNX; peepholes have no g."""
    return ("ifo", "iof") if name == "P" else ("ifgo", "iofg")


def _with_input_gate(array: np.ndarray, blocks: int) -> np.ndarray:
    """Coupled gates, f first, with the input gate that they imply before them."""
    forget = np.split(array, blocks, axis=-1)[0]
    return np.concatenate([-forget, array], axis=-1)


def _without_input_gate(array: np.ndarray, blocks: int) -> np.ndarray:
    """Gates i, f, ... of an operator with `input_forget`, which computes f from i and not from f's own weights."""
    gates = np.split(array, blocks, axis=-1)
    return np.concatenate([-gates[0], *gates[2:]], axis=-1)
