"""cuDNN's flat vector of LSTM weights, as `jax.experimental.rnn.lstm` takes it."""

import math
from typing import Any

import numpy as np

from flaxrnn import checks
from flaxrnn.cells import LSTM
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arithmetic import check_expressible
from flaxrnn.interop.arrays import DTypeError, to_jax, to_numpy
from flaxrnn.interop.blocks import add, add_zero_biases, drop_zero_biases, part_bias
from flaxrnn.interop.places import check_uniform, join_params, places, split_params
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


def import_weights(layer: Layer, weights: Any) -> dict[str, Any]:
    """The parameters of `layer` out of cuDNN's vector.

    Args:
      layer: LSTMs of one size, in one or several layers, in one direction or both, such as `layer_for` makes.
      weights: `[size]`, float32: for each layer and direction W_ih and W_hh, and after all of these b_ih and b_hh.

    Returns:
      The parameters, as `layer.init` makes them; the two biases are added. For cells with `use_bias=False` they must be
      zero, as `export_weights` makes them.

    Raises:
      ValueError: if the layer is not of such LSTMs, or no number of input features gives a vector of that size.

    Example:
      >>> import jax, flaxrnn
      >>> from flaxrnn import interop
      >>> layer = interop.cudnn.layer_for(hidden_size=4, num_layers=2)
      >>> weights = interop.cudnn.export_weights(layer, layer.init(jax.random.key(0), input_size=3))
      >>> weights.shape
      (304,)
      >>> interop.cudnn.import_weights(layer, weights)["layer_0"]["kernel"].shape
      (3, 16)
    """
    cells = _cells(layer)
    vector = to_numpy("weights", weights)
    shapes = _shapes(layer, cells, _input_size(layer, cells, vector))
    bounds = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    pieces = [piece.reshape(shape) for piece, shape in zip(np.split(vector, bounds), shapes, strict=True)]
    half = len(pieces) // 2
    params = []
    for cell, k in zip(cells, range(0, half, 2), strict=True):
        bias = add(pieces[half + k], pieces[half + k + 1])
        arrays = {"kernel": pieces[k].T, "recurrent_kernel": pieces[k + 1].T, "bias": bias}
        params.append({name: to_jax("weights", array) for name, array in drop_zero_biases(cell, arrays).items()})
    return join_params(layer, iter(params))


def export_weights(layer: Layer, params: Any) -> np.ndarray:
    """CuDNN's vector, `[size]`, out of the parameters of `layer`; the whole bias is in b_ih.

    Raises:
      ValueError: if cuDNN's vector has no such layer: other cells than LSTMs, LSTMs with peepholes, coupled gates, a
        projection or clipping, layers of several sizes, or a single one that reads backwards.
      TypeError: if the parameters are not in float32.
    """
    matrices: list[np.ndarray] = []
    biases: list[np.ndarray] = []
    for cell, own in zip(_cells(layer), split_params(layer, params), strict=True):
        checks.check_params(cell, own, len(own["kernel"]))
        for name in ("kernel", "recurrent_kernel"):
            matrices.append(np.asarray(own[name]).T)
        biases += part_bias(add_zero_biases(cell, {name: np.asarray(array) for name, array in own.items()}))
    vector = np.concatenate([piece.reshape(-1) for piece in (*matrices, *biases)])
    if vector.dtype != np.float32:
        raise DTypeError(f"params are in {vector.dtype}: cuDNN's LSTM of JAX takes float32 alone, cast them first")
    return vector


def layer_for(*, hidden_size: int, num_layers: int = 1, bidirectional: bool = False) -> Layer:
    """The layer of such sizes, which a flat vector does not tell, as in `jax.experimental.rnn.lstm`.

    Returns:
      An `RNN` or a `Bidirectional` for one layer, a `Stack` for several.
    """
    cell = LSTM(hidden_size)
    layer = Bidirectional(cell, cell) if bidirectional else RNN(cell)
    return layer if num_layers == 1 else Stack([layer] * num_layers)


FRAMEWORK = "cuDNN's vector"


def _cells(layer: Layer) -> list[Cell]:
    found = [place.cell for place in places(layer)]
    for cell in found:
        check_expressible(FRAMEWORK, {LSTM: {}}, {}, cell)
    check_uniform(FRAMEWORK, layer)
    return found


def _shapes(layer: Layer, cells: list[Cell], input_size: int) -> list[tuple[int, ...]]:
    """The shapes of all matrices, and after them of all biases."""
    directions = 2 if places(layer)[0].direction else 1
    matrices: list[tuple[int, ...]] = []
    for k, cell in enumerate(cells):
        size = cell.output_size
        inputs = input_size if k < directions else directions * size
        matrices += [(4 * size, inputs), (4 * size, size)]
    return matrices + [shape[:1] for shape in matrices]


def _input_size(layer: Layer, cells: list[Cell], vector: np.ndarray) -> int:
    none, one = (sum(math.prod(shape) for shape in _shapes(layer, cells, size)) for size in (0, 1))
    size, rest = divmod(vector.size - none, one - none)
    if vector.ndim != 1 or size < 1 or rest:
        raise ValueError(
            f"weights has the shape {list(vector.shape)}, but {layer} takes a vector of {none:,} numbers and "
            f"{one - none:,} more for each feature of the inputs: pass the layer that they are of"
        )
    return size
