"""What linen's `ConvLSTMCell` and Haiku's `Conv1DLSTM` to `Conv3DLSTM` have in common: two convolutions with biases."""

import numpy as np

from flaxrnn.cells import ConvLSTM
from flaxrnn.interop.arrays import Arrays
from flaxrnn.interop.blocks import add, add_to_forget, reorder
from flaxrnn.interop.layout import Site

Names = tuple[str, str, str, str]
"""The framework's names of the input's kernel and bias, and of the hidden state's kernel and bias."""


def write_conv(cell: ConvLSTM, params: Arrays, names: Names) -> Arrays:
    """The framework's arrays: gates i, g, f, o; the 1 that it adds to the forget gate at run time is taken off."""
    bias = add_to_forget(cell, params["bias"], -1)
    parts = params["kernel"], bias, params["recurrent_kernel"], np.zeros_like(bias)
    return {name: reorder(array, "ifgo", "igfo") for name, array in zip(names, parts, strict=True)}


def read_conv(cell: ConvLSTM, arrays: Arrays, names: Names) -> Arrays:
    """The parameters of a cell; undoes `write_conv`."""
    kernel, bias, recurrent_kernel, second_bias = (reorder(arrays[name], "igfo", "ifgo") for name in names)
    bias = add_to_forget(cell, add(bias, second_bias), 1)
    return {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}


def conv_lstm(site: Site, leaf: str) -> ConvLSTM:
    """The cell that a recurrent kernel, `[*window, features, 4 * features]`, is of."""
    *window, features, columns = site.arrays[leaf].shape
    if not 1 <= len(window) <= 3 or columns != 4 * features:
        raise ValueError(
            f"{leaf} of {site.path or 'the cell'} has the shape {list(site.arrays[leaf].shape)}: pass "
            "[*window, features, 4 * features], with a window of one to three axes"
        )
    return ConvLSTM(features, tuple(window))
