"""Weights of Keras 3's `LSTM`, `GRU`, `SimpleRNN`, `ConvLSTM2D` and the like, alone, in both directions or stacked."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, ConvLSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import relu, tanh
from flaxrnn.checks import describe
from flaxrnn.interop.arithmetic import ANY, Cells, linear, sigmoid
from flaxrnn.interop.arrays import Arrays, check_no_prefix
from flaxrnn.interop.blocks import add_biases, part_bias, reorder
from flaxrnn.interop.conv import conv_lstm
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack

MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean", None: None}
"""flaxrnn's name of each of Keras's merge modes."""
ACTIVATIONS = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "linear": linear}
"""The functions that a SimpleRNN may have here, by Keras's name."""


class _Keras(Layout):
    framework = "Keras"
    leaves = ("kernel", "recurrent_kernel", "bias")
    biases = ("bias",)
    cells: ClassVar[Cells] = {
        LSTM: {},
        GRU: {"reset_after": ANY},
        Elman: {"activation": ANY},
        ConvLSTM: {"features": ANY, "kernel_size": ANY},
    }

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        if not isinstance(cell, GRU):
            return {name: params[name] for name in self.leaves}
        bias = np.stack(part_bias(params)) if cell.reset_after else params["bias"]
        arrays = {"kernel": params["kernel"], "recurrent_kernel": params["recurrent_kernel"], "bias": bias}
        return {name: reorder(array, "rzn", "zrn") for name, array in arrays.items()}

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        if not isinstance(cell, GRU):
            return dict(arrays)
        params = {name: reorder(array, "zrn", "rzn") for name, array in arrays.items()}
        return params | (add_biases(cell, *params["bias"]) if cell.reset_after else {})

    def cell_for(self, site: Site) -> Cell | None:
        if not {"kernel", "recurrent_kernel"} <= site.arrays.keys():
            return None
        if site.arrays["recurrent_kernel"].ndim > 2:
            return conv_lstm(site, "recurrent_kernel")
        size, columns = site.matrix("recurrent_kernel")
        kind = self.kind(columns, size)
        if kind is GRU:
            return GRU(size, reset_after="bias" not in site.arrays or site.arrays["bias"].ndim == 2)
        return None if kind is None else kind(size)

    def path(self, place: Place, before: list[Place]) -> str:
        kind = {LSTM: "lstm", GRU: "gru", Elman: "simple_rnn", ConvLSTM: "conv_lstm"}[type(place.cell)]
        axes = f"{place.cell.feature_axes - 1}d" if kind == "conv_lstm" else ""
        layer = "" if place.number is None else f"layer_{place.number}/"
        return f"{layer}{place.direction}{'_' if place.direction else ''}{kind}{axes}/{kind}_cell"


def import_weights(layer: Layer, weights: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of a Keras model's weights.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      weights: what `get_weights()` gives, of one layer or of a model of several; or arrays by their paths,
        `{variable.path: variable.numpy() for variable in model.weights}`. Paths are put into the order of the numbers
        in them.
      prefix: what the paths of the network begin with among others; those are then left out.

    Returns:
      The parameters, as `layer.init` makes them. Of a GRU's two biases those of its gates are added.

    Raises:
      ValueError: if Keras has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import numpy as np
      >>> from flaxrnn import RNN, cells, interop
      >>> draw = np.random.default_rng(0).normal
      >>> weights = [draw(size=shape).astype(np.float32) for shape in [(3, 16), (4, 16), (16,)]]  # as get_weights()
      >>> params = interop.keras.import_weights(RNN(cells.LSTM(4)), weights)
      >>> interop.keras.export_weights(RNN(cells.LSTM(4)), params).keys()
      dict_keys(['lstm/lstm_cell/kernel', 'lstm/lstm_cell/recurrent_kernel', 'lstm/lstm_cell/bias'])
    """
    return _Keras().import_weights(layer, _named(weights, [place.cell for place in _Keras().places(layer)]), prefix)


def export_weights(layer: Layer, params: Any) -> Arrays:
    """Arrays by paths, in the order of `get_weights()`, out of the parameters of `layer`.

    `model.set_weights(list(weights.values()))` puts them into a Keras model.

    Raises:
      ValueError: if Keras has no such layer: an LSTM with peepholes, coupled gates, a projection or clipping.
    """
    return _Keras().export_weights(layer, params)


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that a network of Keras's is.

    Args:
      source: a Keras layer (`LSTM`, `GRU`, `SimpleRNN`, `ConvLSTM1D` to `ConvLSTM3D`, `RNN` of their cells,
        `Bidirectional` of these), a `Sequential` of them, or arrays by their paths. Those alone do not say how a
        SimpleRNN squashes (tanh is Keras's default), how a `Bidirectional` merges (it concatenates), whether a layer
        reads backwards, and of a GRU without biases where its reset gate acts (after the product).
      prefix: as in `import_weights`.

    Returns:
      An `RNN` or a `Bidirectional` for one layer, a `Stack` for several. Where a Keras layer with `go_backwards` gives
      its outputs in the order in which it read, flaxrnn's are in the order of the inputs.

    Raises:
      ValueError: if a layer has options for which flaxrnn has no cell, such as other activations in an LSTM.
    """
    if isinstance(source, Mapping):
        return _Keras().layer_for(source, prefix)
    check_no_prefix(prefix)
    import keras

    if isinstance(source, keras.Sequential):
        layers = [layer_for(layer) for layer in source.layers]
        for part, above in itertools.pairwise(layers):
            if isinstance(part, RNN) and part.reverse:
                raise ValueError(
                    f"{part} has go_backwards, so that {above} reads its outputs in the order in which it read; "
                    "flaxrnn's are in the order of the inputs: bring the layers over one by one"
                )
        return layers[0] if len(layers) == 1 else Stack(layers)
    if isinstance(source, keras.layers.Bidirectional):
        if source.forward_layer.go_backwards or not source.backward_layer.go_backwards:
            raise ValueError(f"{source.name} has a forward layer that reads backwards, or the other way round")
        merge = MERGES[source.merge_mode]
        return Bidirectional(_cell(source.forward_layer.cell), _cell(source.backward_layer.cell), merge=merge)
    if not isinstance(source, keras.layers.RNN):
        raise TypeError(
            f"source is {describe(source)}: pass a recurrent layer of Keras's, such as model.layers[0], a Sequential "
            "of them, or arrays by their paths"
        )
    cells = source.cell.cells if isinstance(source.cell, keras.layers.StackedRNNCells) else [source.cell]
    layers = [RNN(_cell(cell), reverse=source.go_backwards) for cell in cells]
    return layers[0] if len(layers) == 1 else Stack(layers)


def _cell(cell: Any) -> Cell:
    """The cell that a Keras cell, or the one in a Keras layer, is."""
    import keras

    names = "activation", "recurrent_activation"
    activation, gates = (getattr(getattr(cell, name, None), "__name__", "") for name in names)
    kinds = keras.layers.LSTMCell | keras.layers.GRUCell | keras.layers.SimpleRNNCell
    is_conv = type(cell).__name__ == "ConvLSTMCell"  # Keras keeps it to itself
    if not isinstance(cell, kinds) and not is_conv:
        raise TypeError(f"{describe(cell)} is no LSTMCell, GRUCell, SimpleRNNCell or ConvLSTMCell of Keras's")
    dropout = {"input_dropout": cell.dropout, "hidden_dropout": cell.recurrent_dropout}
    if isinstance(cell, keras.layers.SimpleRNNCell):
        if activation not in ACTIVATIONS:
            raise ValueError(f"{cell.name} has the activation {activation}: there are {', '.join(ACTIVATIONS)}")
        return Elman(cell.units, activation=ACTIVATIONS[activation], use_bias=cell.use_bias, **dropout)
    if (activation, gates) != ("tanh", "sigmoid"):
        raise ValueError(
            f"{cell.name} has the activations {activation} and {gates}: flaxrnn's cells have tanh and sigmoid"
        )
    if is_conv:
        options = {"padding": "same", "data_format": "channels_last"}
        ones = (1,) * cell.rank
        for name, wanted in (options | {"strides": ones, "dilation_rate": ones}).items():
            if getattr(cell, name) != wanted:
                raise ValueError(
                    f"{cell.name} has {name}={getattr(cell, name)!r}: flaxrnn's ConvLSTM is as with {name}={wanted!r}"
                )
        return ConvLSTM(cell.filters, cell.kernel_size, use_bias=cell.use_bias, **dropout)
    if isinstance(cell, keras.layers.LSTMCell):
        return LSTM(cell.units, use_bias=cell.use_bias, **dropout)
    return GRU(cell.units, cell.reset_after, use_bias=cell.use_bias, **dropout)


def _named(weights: Mapping[str, Any] | Sequence[Any], cells: list[Cell]) -> Mapping[str, Any]:
    """Weights by path, for a list of them in the order of the cells; all of it may be without biases."""
    if isinstance(weights, Mapping):
        return weights
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights is {describe(weights)}: pass what get_weights() gives, or arrays by their paths")
    own = [_Keras.leaves if getattr(cell, "use_bias", True) else _Keras.leaves[:2] for cell in cells]
    for leaves in (own, [_Keras.leaves[:2]] * len(cells), [_Keras.leaves] * len(cells)):
        names = [f"{k}/{leaf}" for k, each in enumerate(leaves) for leaf in each]
        if len(names) == len(weights):
            return dict(zip(names, weights, strict=True))
    raise ValueError(
        f"weights are {len(weights)} arrays, but a layer of {len(cells)} cells has {3 * len(cells)}, or without biases "
        f"{2 * len(cells)}: pass what get_weights() gives"
    )
