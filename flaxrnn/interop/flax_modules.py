"""The layer that a module of linen or of nnx is; the two name their parts alike."""

from typing import Any

from flaxrnn.cells import GRU, LSTM, ConvLSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import tanh
from flaxrnn.interop.arithmetic import known, sigmoid
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


def layer_of_module(flax: Any, module: Any) -> Layer:
    """The layer that `module` is, a module of `flax`, which is `flax.linen` or `flax.nnx`."""
    if isinstance(module, flax.Sequential):
        layers = [layer_of_module(flax, part) for part in module.layers]
        for part in module.layers[:-1]:
            if isinstance(part, flax.RNN) and part.reverse and not part.keep_order:
                raise ValueError(
                    "source has a layer below others with reverse=True and without keep_order=True: its outputs are in "
                    "the order in which it read, but flaxrnn's in that of the inputs: bring the layers over one by one"
                )
        return layers[0] if len(layers) == 1 else Stack(layers)
    if isinstance(module, flax.Bidirectional):
        if module.merge_fn.__module__.split(".")[0] != "flax":
            raise ValueError(
                "source has a Bidirectional with a merge_fn of its own: make the layer by hand, as "
                "flaxrnn.Bidirectional(forward, backward, merge=...)"
            )
        return Bidirectional(_cell(flax, module.forward_rnn.cell), _cell(flax, module.backward_rnn.cell))
    if isinstance(module, flax.RNN):
        return RNN(_cell(flax, module.cell), reverse=module.reverse)
    return RNN(_cell(flax, module))


def _cell(flax: Any, cell: Any) -> Cell:
    if type(cell).__name__ == "ConvLSTMCell":  # linen alone has it
        if cell.padding != "SAME" or any(size != 1 for size in cell.strides or ()):
            raise ValueError(
                f"source has a ConvLSTMCell with padding={cell.padding!r} and strides={cell.strides}: flaxrnn's "
                "ConvLSTM is as with padding='SAME' and strides of 1"
            )
        return ConvLSTM(cell.features, tuple(cell.kernel_size))
    kinds = {flax.LSTMCell: LSTM, flax.OptimizedLSTMCell: LSTM, flax.GRUCell: GRU, flax.SimpleCell: Elman}
    if type(cell) not in kinds:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"source has a {type(cell).__name__} in it: pass an RNN, a Bidirectional or a Sequential of {names}"
        )
    size = cell.features if hasattr(cell, "features") else cell.hidden_features
    if type(cell) is flax.SimpleCell:
        if cell.residual:
            raise ValueError("source has a SimpleCell with residual=True, for which flaxrnn has no cell")
        return Elman(size, activation=known(cell.activation_fn))
    if (known(cell.gate_fn), known(cell.activation_fn)) != (sigmoid, tanh):
        raise ValueError(
            f"source has a {type(cell).__name__} with activations of its own: flaxrnn's cells have sigmoid and tanh"
        )
    return kinds[type(cell)](size)
