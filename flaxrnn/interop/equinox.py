"""Weights of Equinox's `LSTMCell` and `GRUCell`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flaxrnn.cells import GRU, LSTM
from flaxrnn.cells.base import Cell
from flaxrnn.checks import describe
from flaxrnn.interop.arithmetic import Cells
from flaxrnn.interop.arrays import Arrays
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place
from flaxrnn.layers import Layer


class _Equinox(Layout):
    framework = "Equinox"
    leaves = ("weight_ih", "weight_hh", "bias", "bias_n")
    biases = ("bias", "bias_n")
    cells: ClassVar[Cells] = {LSTM: {}, GRU: {"reset_after": (True,)}}
    reasons: ClassVar[dict[str, str]] = {"reset_after": "its reset gate acts after the matrix product"}

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        arrays = {"weight_ih": params["kernel"].T, "weight_hh": params["recurrent_kernel"].T, "bias": params["bias"]}
        return arrays | ({"bias_n": params["recurrent_bias"]} if isinstance(cell, GRU) else {})

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        params = {"kernel": arrays["weight_ih"].T, "recurrent_kernel": arrays["weight_hh"].T, "bias": arrays["bias"]}
        return params | ({"recurrent_bias": arrays["bias_n"]} if isinstance(cell, GRU) else {})

    def cell_for(self, site: Site) -> Cell | None:
        if not {"weight_ih", "weight_hh"} <= site.arrays.keys():
            return None
        rows, size = site.matrix("weight_hh")
        kind = self.kind(rows, size)
        return None if kind is None else kind(size)

    def path(self, place: Place, before: list[Place]) -> str:
        return "/".join(
            ([] if place.number is None else [str(place.number)]) + [place.direction] * bool(place.direction)
        )


def import_weights(layer: Layer, source: Any, prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of Equinox's cells.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`.
      source: an `eqx.nn.LSTMCell` or `GRUCell`; a list of them, for a stack; a dict of those, of which `"forward"`
        comes before `"backward"`; or the same with dicts of arrays in their place.
      prefix: what the paths of the network begin with among others; those are then left out.

    Returns:
      The parameters, as `layer.init` makes them. Without biases in Equinox, a layer that has them gets zeros.

    Raises:
      ValueError: if Equinox has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import numpy as np
      >>> from flaxrnn import interop
      >>> cell = {"weight_ih": np.ones([16, 3], "f"), "weight_hh": np.ones([16, 4], "f"), "bias": np.zeros(16, "f")}
      >>> layer = interop.equinox.layer_for(cell)
      >>> layer
      RNN(cell=LSTM(hidden_size=4), reverse=False, include_initial=False)
      >>> interop.equinox.import_weights(layer, cell)["kernel"].shape
      (3, 16)
    """
    return _Equinox().import_weights(layer, _arrays(source), prefix)


def export_weights(layer: Layer, params: Any) -> Arrays:
    """Arrays by path out of the parameters of `layer`: `"weight_ih"`; in a stack `"0/weight_ih"`, `"1/weight_ih"`.

    `eqx.tree_at(lambda cell: [getattr(cell, name) for name in arrays], cell, list(arrays.values()))` puts those of one
    cell into it.

    Raises:
      ValueError: if Equinox has no such layer: an Elman network, an LSTM with peepholes, coupled gates, a projection or
        clipping, or a GRU that resets before its product.
    """
    return _Equinox().export_weights(layer, params)


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that Equinox's cells are, or arrays as in `import_weights`.

    Returns:
      An `RNN` for one cell, a `Stack` for several, a `Bidirectional` for `"forward"` and `"backward"`.
    """
    return _Equinox().layer_for(_arrays(source), prefix)


def _arrays(source: Any) -> Any:
    """The arrays of cells, in the dicts and lists that the cells are in."""
    if isinstance(source, Mapping):
        return {name: _arrays(value) for name, value in source.items()}
    if isinstance(source, list | tuple):
        return [_arrays(value) for value in source]
    if hasattr(source, "shape"):
        return source
    import equinox

    if not isinstance(source, equinox.nn.LSTMCell | equinox.nn.GRUCell):
        raise TypeError(f"source is {describe(source)}: pass an eqx.nn.LSTMCell or GRUCell, a list of them, or arrays")
    arrays = {name: getattr(source, name, None) for name in _Equinox.leaves}
    return {name: array for name, array in arrays.items() if array is not None}
