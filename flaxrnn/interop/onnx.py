"""ONNX's own LSTM, GRU and RNN operators: their arrays, and whole models of them."""

from collections.abc import Mapping
from typing import Any

from flaxrnn.interop.arithmetic import arithmetic
from flaxrnn.interop.arrays import Arrays, check_no_prefix
from flaxrnn.interop.blocks import with_biases
from flaxrnn.interop.onnx_layout import ONNXLayout
from flaxrnn.interop.places import check_sizes, join_params, places, plain_layers
from flaxrnn.layers import Bidirectional, Layer, Stack


def import_weights(
    layer: Layer, source: Any, prefix: str = "", *, weights: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parameters of `layer` out of an ONNX model.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      source: an `onnx.ModelProto`, such as `onnx.load` gives, of whose graph the LSTM, GRU and RNN operators are read,
        in their order; or arrays, as `export_weights` makes them.
      prefix: for arrays, what their names begin with among others; those are then left out.
      weights: for a model that takes weights as inputs, as ONNX's own tests do, these, by the names of the inputs.

    Returns:
      The parameters, as `layer.init` makes them. Of coupled gates (`input_forget`) ONNX's input gate is the negated
      forget gate, since i = sigmoid(x) = 1 - sigmoid(-x).

    Raises:
      ValueError: if ONNX or flaxrnn has no such layer, or the model is of another one.
    """
    if isinstance(source, Mapping):
        _check_no_weights(weights)
        return ONNXLayout().import_weights(layer, source, prefix)
    check_no_prefix(prefix)
    from flaxrnn.interop.onnx_reading import read_model

    given, sites = read_model(source, weights or {})
    wanted = ONNXLayout().places(layer)
    if _computed(layer) != _computed(given):
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
    from flaxrnn.interop.onnx_writing import write_model

    arrays = export_weights(layer, params)
    return write_model(layer, arrays, lengths=lengths, initial_state=initial_state, opset=opset)


def layer_for(source: Any, prefix: str = "", *, weights: Mapping[str, Any] | None = None) -> Layer:
    """The layer that an ONNX model's recurrent operators are.

    Args:
      source: an `onnx.ModelProto`; or arrays, as `export_weights` makes them, which do not say whether gates are
        coupled (they are taken as not), where a GRU's reset gate acts (after the product), and how an RNN squashes
        (tanh).
      prefix: as in `import_weights`.
      weights: as in `import_weights`.

    Returns:
      The layer whose outputs those of the model are made of. Operators that read the same from both ends, of which the
      outputs are merged, are a `Bidirectional`; one on top of the other they are a `Stack`, with `residual=True` where
      the graph adds what a layer reads to what it gives. What comes before the first one and after the last one, such
      as an embedding or a read-out, is left out.

    Raises:
      ValueError: if flaxrnn has no such layer: other activations, `clip`, weights that are not constant, anything else
        between two operators, or operators that are merged in another way.
    """
    if isinstance(source, Mapping):
        _check_no_weights(weights)
        return ONNXLayout().layer_for(source, prefix)
    check_no_prefix(prefix)
    from flaxrnn.interop.onnx_reading import read_model

    return read_model(source, weights or {})[0]


def _computed(layer: Layer) -> list[Any]:
    """What a layer computes, biases aside, to compare: its layers from the bottom, stacks within stacks taken apart."""
    if isinstance(layer, Stack):
        parts = [_computed(part) for part in layer.layers]
        return [parts] if layer.residual and len(parts) > 1 else [one for part in parts for one in part]
    (plain,) = plain_layers(layer)
    cells = [(arithmetic(with_biases(place.cell)), place.reverse) for place in places(plain)]
    return [(cells, plain.merge if isinstance(plain, Bidirectional) else "")]


def _check_no_weights(weights: Mapping[str, Any] | None) -> None:
    if weights is not None:
        raise ValueError("weights are given beside arrays: they are for a model that takes its weights as inputs")
