"""Weights of `flax.linen`'s LSTM cells (one of them convolutional), `GRUCell` and `SimpleCell`, anywhere in a tree."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, ConvLSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arithmetic import ANY, Cells
from flaxrnn.interop.arrays import Arrays, check_no_prefix, unflatten
from flaxrnn.interop.conv import conv_lstm, read_conv, write_conv
from flaxrnn.interop.flax_modules import layer_of_module
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place
from flaxrnn.layers import Layer

CONV = ("ih/kernel", "ih/bias", "hh/kernel", "hh/bias")


class Gates(Layout):
    """Cells with one small kernel a gate, as in linen, and in nnx's `LSTMCell`."""

    framework = "flax.linen"
    leaves = (
        *(f"{side}{gate}/{kind}" for side in "ih" for gate in "ifgorzn" for kind in ("kernel", "bias")),
        *("i/kernel", "i/bias", "h/kernel"),
        *CONV,
    )
    cells: ClassVar[Cells] = {
        LSTM: {},
        GRU: {"reset_after": (True,)},
        Elman: {"activation": ANY},
        ConvLSTM: {"features": ANY, "kernel_size": ANY},
    }
    reasons: ClassVar[dict[str, str]] = {"reset_after": "its reset gate acts after the matrix product"}

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        if isinstance(cell, ConvLSTM):
            return write_conv(cell, params, CONV)
        gates = self.gates(cell)
        arrays: Arrays = {}
        for side, name in (("i", "kernel"), ("h", "recurrent_kernel")):
            for gate, block in zip(gates, np.split(params[name], len(gates), axis=1), strict=True):
                arrays[f"{side}{gate}/kernel"] = block
        side = "h" if isinstance(cell, LSTM) else "i"
        for gate, block in zip(gates, np.split(params["bias"], len(gates)), strict=True):
            arrays[f"{side}{gate}/bias"] = block
        return arrays | ({"hn/bias": params["recurrent_bias"]} if isinstance(cell, GRU) else {})

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        if isinstance(cell, ConvLSTM):
            return read_conv(cell, arrays, CONV)
        gates = self.gates(cell)
        side = "h" if isinstance(cell, LSTM) else "i"
        params = {
            "kernel": np.concatenate([arrays[f"i{gate}/kernel"] for gate in gates], axis=1),
            "recurrent_kernel": np.concatenate([arrays[f"h{gate}/kernel"] for gate in gates], axis=1),
            "bias": np.concatenate([arrays[f"{side}{gate}/bias"] for gate in gates]),
        }
        return params | ({"recurrent_bias": arrays["hn/bias"]} if isinstance(cell, GRU) else {})

    def gates(self, cell: Cell) -> tuple[str, ...]:
        """What the gates are called, in flaxrnn's order; an Elman network's only one has no name."""
        return {LSTM: tuple("ifgo"), GRU: tuple("rzn"), Elman: ("",)}[type(cell)]

    def cell_for(self, site: Site) -> Cell | None:
        if {"ih/kernel", "hh/kernel"} <= site.arrays.keys():
            return conv_lstm(site, "hh/kernel")
        for leaf, kind in (("ho/kernel", LSTM), ("hz/kernel", GRU), ("h/kernel", Elman)):
            if leaf in site.arrays:
                return kind(site.matrix(leaf)[0])
        if {"if/kernel", "in/kernel"} <= site.arrays.keys():
            raise ValueError(
                f"{site.path} is an MGUCell: its h' = (1 - f) n + f h is the other way round than in the paper and in "
                "flaxrnn's MGU, and no change of weights turns the one into the other"
            )
        return None

    def path(self, place: Place, before: list[Place]) -> str:
        layer = "" if place.number is None else f"layers_{place.number}/"
        return f"params/{layer}{f'{place.direction}_rnn/' if place.direction else ''}cell"


def import_weights(layer: Layer, variables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of a linen module's variables.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      variables: what `module.init` gives, or any part of it: cells are found by their entries, not by their names,
        and put into the order of the numbers in their paths, each `forward_rnn` before its `backward_rnn`.
      prefix: what the paths of the network begin with, such as `"params/encoder/"`; other entries are then left out.

    Returns:
      The parameters, as `layer.init` makes them.

    Raises:
      ValueError: if linen has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import jax, flaxrnn
      >>> import flax.linen as nn
      >>> from flaxrnn import interop
      >>> module, inputs = nn.RNN(nn.GRUCell(4)), jax.numpy.ones([2, 5, 3])
      >>> variables = module.init(jax.random.key(0), inputs)
      >>> layer = interop.linen.layer_for(module)
      >>> params = interop.linen.import_weights(layer, variables)
      >>> state, outputs = layer.apply(params, inputs)
      >>> bool(jax.numpy.allclose(outputs, module.apply(variables, inputs), atol=1e-6))
      True
    """
    return Gates().import_weights(layer, variables, prefix)


def export_weights(layer: Layer, params: Any) -> dict[str, Any]:
    """Variables, `{"params": ...}`, out of the parameters of `layer`.

    Their tree is that of `nn.RNN(cell)`, of `nn.Bidirectional(nn.RNN(cell), nn.RNN(cell))`, or for a `Stack` of an
    `nn.Sequential` of these, and fits LSTMCell and OptimizedLSTMCell alike.

    Raises:
      ValueError: if linen has no such layer: an LSTM with peepholes, coupled gates, a projection or clipping, or a GRU
        that resets before its product.
    """
    return unflatten(Gates().export_weights(layer, params))


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that a network of linen's is.

    Args:
      source: an `nn.RNN`, `nn.Bidirectional` of two, an `nn.Sequential` of these, or one of the cells; or variables as
        in `import_weights`, which do not say how a SimpleCell squashes (it is taken for tanh).
      prefix: as in `import_weights`, for variables.

    Returns:
      An `RNN` or a `Bidirectional` for one layer, a `Stack` for several. Where linen's `reverse` gives the outputs in
      the order in which it read, flaxrnn's are in the order of the inputs, as with linen's `keep_order`.

    Raises:
      ValueError: if a cell has options for which flaxrnn has no cell, such as other activations in an LSTM.
    """
    if isinstance(source, Mapping):
        return Gates().layer_for(source, prefix)
    check_no_prefix(prefix)
    from flax import linen

    return layer_of_module(linen, source)
