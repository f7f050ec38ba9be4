"""Weights of `flax.nnx`'s `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and `SimpleCell`, anywhere in a tree."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arithmetic import ANY, Cells
from flaxrnn.interop.arrays import Arrays, check_no_prefix, unflatten
from flaxrnn.interop.flax_modules import layer_of_module
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.linen import Gates
from flaxrnn.interop.places import Place
from flaxrnn.layers import Layer

DENSE = ("dense_i/kernel", "dense_i/bias", "dense_h/kernel", "dense_h/bias")


@dataclasses.dataclass(frozen=True)
class _NNX(Layout):
    """All kernels of a cell in one, but of the `LSTMCell`, which is as linen's."""

    optimized: bool

    framework = "flax.nnx"
    leaves = (*DENSE, *(leaf.replace("if/", "if_/") for leaf in Gates.leaves))
    cells: ClassVar[Cells] = {LSTM: {}, GRU: {"reset_after": (True,)}, Elman: {"activation": ANY}}
    reasons = Gates.reasons

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        if isinstance(cell, LSTM) and not self.optimized:
            return {leaf.replace("if/", "if_/"): array for leaf, array in Gates().write(cell, params).items()}
        if isinstance(cell, GRU) and np.any(params["recurrent_bias"]):
            raise ValueError(
                "params['recurrent_bias'] is not zero, but flax.nnx's GRUCell has no bias inside the reset: export to "
                "flax.linen, or train without that bias"
            )
        side = "h" if isinstance(cell, LSTM) else "i"
        return {
            "dense_i/kernel": params["kernel"],
            "dense_h/kernel": params["recurrent_kernel"],
            f"dense_{side}/bias": params["bias"],
        }

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        if isinstance(cell, LSTM) and not self.optimized:
            return Gates().read(cell, {leaf.replace("if_/", "if/"): array for leaf, array in arrays.items()})
        side = "h" if isinstance(cell, LSTM) else "i"
        params = {
            "kernel": arrays["dense_i/kernel"],
            "recurrent_kernel": arrays["dense_h/kernel"],
            "bias": arrays[f"dense_{side}/bias"],
        }
        zeros = np.zeros(cell.output_size, params["bias"].dtype)
        return params | ({"recurrent_bias": zeros} if isinstance(cell, GRU) else {})

    def cell_for(self, site: Site) -> Cell | None:
        if "ho/kernel" in site.arrays:
            return LSTM(site.matrix("ho/kernel")[0])
        if not {"dense_i/kernel", "dense_h/kernel"} <= site.arrays.keys():
            return None
        size, columns = site.matrix("dense_h/kernel")
        kind = self.kind(columns, size)
        return None if kind is None else kind(size)

    def for_site(self, site: Site) -> Layout:
        return _NNX(optimized="dense_i/kernel" in site.arrays)

    def path(self, place: Place, before: list[Place]) -> str:
        layer = "" if place.number is None else f"layers/{place.number}/"
        return f"{layer}{f'{place.direction}_rnn/' if place.direction else ''}cell"


def import_weights(layer: Layer, state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The parameters of `layer` out of an nnx module's state.

    Args:
      layer: an `RNN`, a `Bidirectional` or a `Stack`, such as `layer_for` makes.
      state: what `nnx.state(module, nnx.Param)` gives, or a part of it, or the same as dicts of arrays: cells are found
        by their entries, not by their names, and put into the order of the numbers in their paths, each `forward_rnn`
        before its `backward_rnn`.
      prefix: what the paths of the network begin with, such as `"encoder/"`; other entries are then left out.

    Returns:
      The parameters, as `layer.init` makes them; a GRU's `recurrent_bias`, which nnx has not, is zero.

    Raises:
      ValueError: if nnx has no such layer, or an entry is missing, unknown or of another shape.

    Example:
      >>> import jax, flaxrnn
      >>> from flax import nnx
      >>> from flaxrnn import interop
      >>> module = nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
      >>> layer, inputs = interop.nnx.layer_for(module), jax.numpy.ones([2, 5, 3])
      >>> params = interop.nnx.import_weights(layer, nnx.state(module, nnx.Param))
      >>> state, outputs = layer.apply(params, inputs)
      >>> bool(jax.numpy.allclose(outputs, module(inputs), atol=1e-6))
      True
    """
    return _NNX(optimized=False).import_weights(layer, _plain(state), prefix)


def export_weights(layer: Layer, params: Any, *, optimized: bool = False) -> dict[str, Any]:
    """A state, as dicts of arrays, out of the parameters of `layer`; `nnx.update(module, state)` puts it into a module.

    Its tree is that of `nnx.RNN(cell)`, of `nnx.Bidirectional(nnx.RNN(cell), nnx.RNN(cell))`, or for a `Stack` of an
    `nnx.Sequential` of these.

    Args:
      layer: the layer.
      params: its parameters.
      optimized: whether the module's LSTM cells are `OptimizedLSTMCell`, which are laid out in another way.

    Raises:
      ValueError: if nnx has no such layer: an LSTM with peepholes, coupled gates, a projection or clipping, a GRU that
        resets before its product, or one whose `recurrent_bias` is not zero.
    """
    return _numbered(unflatten(_NNX(optimized).export_weights(layer, params)))


def layer_for(source: Any, prefix: str = "") -> Layer:
    """The layer that a network of nnx's is.

    Args:
      source: an `nnx.RNN`, `nnx.Bidirectional` of two, an `nnx.Sequential` of these, or one of the cells; or a state as
        in `import_weights`, which does not say how a SimpleCell squashes (it is taken for tanh).
      prefix: as in `import_weights`, for a state.

    Returns:
      An `RNN` or a `Bidirectional` for one layer, a `Stack` for several. Where nnx's `reverse` gives the outputs in the
      order in which it read, flaxrnn's are in the order of the inputs, as with nnx's `keep_order`.

    Raises:
      ValueError: if a cell has options for which flaxrnn has no cell, such as other activations in an LSTM.
    """
    if isinstance(source, Mapping):
        return _NNX(optimized=False).layer_for(_plain(source), prefix)
    check_no_prefix(prefix)
    from flax import nnx

    return layer_of_module(nnx, source)


def _plain(state: Any) -> Any:
    """A state without the generators of random numbers, which have a place in it but are no weights."""
    if not isinstance(state, Mapping):
        return state
    return {name: _plain(value) for name, value in state.items() if name != "rngs"}


def _numbered(tree: Any) -> Any:
    """A tree in which lists are numbered by integers, as in nnx's own states."""
    if not isinstance(tree, dict):
        return tree
    return {int(name) if name.isdigit() else name: _numbered(value) for name, value in tree.items()}
