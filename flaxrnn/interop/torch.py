"""Weights of `torch.nn.LSTM`, `GRU` and `RNN`, and of their single cells."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import relu, tanh
from flaxrnn.checks import describe
from flaxrnn.interop.arithmetic import ANY, Cells
from flaxrnn.interop.arrays import Arrays, check_no_prefix, listed
from flaxrnn.interop.blocks import add_biases, part_bias
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place, check_uniform
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


class _Torch(Layout):
    framework = "torch"
    leaves = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    biases = ("bias_ih", "bias_hh")
    cells: ClassVar[Cells] = {
        LSTM: {"projection_size": ANY},
        GRU: {"reset_after": (True,)},
        Elman: {"activation": (tanh, relu)},
    }
    reasons: ClassVar[dict[str, str]] = {"reset_after": "its reset gate acts after the matrix product"}

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        inside, outside = part_bias(params)
        arrays = {"weight_ih": params["kernel"].T, "weight_hh": params["recurrent_kernel"].T}
        arrays |= {"bias_ih": inside, "bias_hh": outside}
        return arrays | ({"weight_hr": params["projection_kernel"].T} if "projection_kernel" in params else {})

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        params = {"kernel": arrays["weight_ih"].T, "recurrent_kernel": arrays["weight_hh"].T}
        params |= add_biases(cell, arrays["bias_ih"], arrays["bias_hh"])
        return params | ({"projection_kernel": arrays["weight_hr"].T} if "weight_hr" in arrays else {})

    def cell_for(self, site: Site) -> Cell | None:
        if not {"weight_ih", "weight_hh"} <= site.arrays.keys():
            return None
        rows, columns = site.matrix("weight_hh")
        if "weight_hr" in site.arrays:
            return LSTM(rows // 4, projection_size=columns)
        kind = self.kind(rows, columns)
        return None if kind is None else kind(columns)

    def path(self, place: Place, before: list[Place]) -> str:
        return f"l{place.number or 0}" + ("_reverse" if place.direction == "backward" else "")

    def join(self, path: str, leaf: str) -> str:
        return f"{leaf}_{path}" if path else leaf

    def split(self, name: str) -> tuple[str, str] | None:
        match = re.fullmatch(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_(l\d+(?:_reverse)?))?", name)
        return (match[2] or "", match[1]) if match else None

    def check_sites(self, found: list[Site]) -> None:
        paths = [site.path for site in found]
        layers = max((int(re.sub(r"\D", "", path) or 0) for path in paths), default=0) + 1
        reverse = any(path.endswith("_reverse") for path in paths)
        for k in range(layers if any(paths) else 0):
            for path in (f"l{k}", f"l{k}_reverse")[: 1 + reverse]:
                if path not in paths:
                    raise ValueError(
                        f"there is no weight_ih_{path}, but {listed(f'weight_ih_{other}' for other in paths)}"
                    )
        with_bias = [site.path for site in found if "bias_ih" in site.arrays or "bias_hh" in site.arrays]
        if with_bias and len(with_bias) < len(found):
            without = next(site.path for site in found if site.path not in with_bias)
            raise ValueError(
                f"there is no bias_ih_{without}, but there is bias_ih_{with_bias[0]}: pass all biases or none"
            )

    def check_layer(self, layer: Layer) -> None:
        check_uniform(self.framework, layer)


def import_weights(layer: Layer, state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of a state dict.

    Torch's two biases become one, their sum; but in a GRU's candidate, where the one stands inside the reset, both
    stay. A module with `bias=False` has none, as `use_bias=False` here; a layer with biases has zeros from it.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      state_dict: the state dict of a `torch.nn.LSTM`, `GRU`, `RNN`, or of one of their cells; of torch's tensors or of
        NumPy's arrays.
      prefix: what the names of the network begin with in the state dict of a larger one, such as `"encoder."`; other
        entries are then left out.

    Returns:
      The parameters, as `layer.init` makes them, in the dtype of the state dict.

    Raises:
      ValueError: if torch has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import numpy as np
      >>> from flaxrnn import RNN, cells, interop
      >>> draw = np.random.default_rng(0).normal
      >>> shapes = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": (12,), "bias_hh_l0": (12,)}
      >>> state_dict = {name: draw(size=shape).astype(np.float32) for name, shape in shapes.items()}
      >>> layer = interop.torch.layer_for(state_dict)
      >>> layer
      RNN(cell=GRU(hidden_size=4), reverse=False, include_initial=False)
      >>> interop.torch.import_weights(layer, state_dict)["kernel"].shape
      (3, 12)
    """
    return _Torch().import_weights(layer, state_dict, prefix)


def export_weights(layer: Layer, params: Any) -> Arrays:
    """A state dict out of the parameters of `layer`, in NumPy's arrays.

    `module.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})` puts it into a
    module; torch reads no NumPy arrays of bfloat16, so make those float32 first. The whole bias is in `bias_ih`;
    `bias_hh` is zero but for a GRU's candidate. A layer of cells with `use_bias=False` has neither, as a module with
    `bias=False`.

    Args:
      layer: the layer; one of several layers has them all alike, as torch's have.
      params: its parameters.

    Raises:
      ValueError: if torch has no such layer: peepholes, coupled gates, clipping, a GRU that resets before its product,
        layers of several sizes, or a single one that reads backwards.
    """
    return _Torch().export_weights(layer, params)


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that a network of torch's is.

    Args:
      source: a `torch.nn.LSTM`, `GRU` or `RNN`, an `LSTMCell`, `GRUCell` or `RNNCell`, or the state dict of one. A
        state dict does not say what a `torch.nn.RNN` squashes with: it is taken for tanh, torch's default. Nor does it
        have dropout.
      prefix: as in `import_weights`, for a state dict.

    Returns:
      An `RNN` or a `Bidirectional` for one layer, a `Stack` for several.
    """
    if isinstance(source, Mapping):
        return _Torch().layer_for(source, prefix)
    check_no_prefix(prefix)
    from torch import nn

    kinds = nn.LSTM | nn.GRU | nn.RNN | nn.LSTMCell | nn.GRUCell | nn.RNNCell
    if not isinstance(source, kinds):
        raise TypeError(
            f"source is {describe(source)}: pass a torch.nn.LSTM, GRU or RNN, such as model.rnn, or a state dict"
        )
    layer = _Torch().layer_for(source.state_dict())
    if getattr(source, "nonlinearity", "tanh") == "relu":
        layer = _with_relu(layer)
    if isinstance(layer, Stack):
        layer = Stack(layer.layers, dropout=float(cast(float, source.dropout)))
    return layer


def _with_relu(layer: Layer) -> Layer:
    def squashed(cell: Cell) -> Elman:
        assert isinstance(cell, Elman)
        return dataclasses.replace(cell, activation=relu)

    if isinstance(layer, Stack):
        return Stack([_with_relu(part) for part in layer.layers])
    if isinstance(layer, Bidirectional):
        return Bidirectional(squashed(layer.forward), squashed(layer.backward))
    assert isinstance(layer, RNN)
    return RNN(squashed(layer.cell))
