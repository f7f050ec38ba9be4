"""The arithmetic of layouts: gates in another order, and two biases for one."""

import numpy as np

from flaxrnn.cells import GRU, LSTM
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arrays import Arrays


def reorder(array: np.ndarray, old: str, new: str, axis: int = -1) -> np.ndarray:
    """Blocks of one size along `axis`, one for each letter of `old`, in the order of `new`."""
    blocks = dict(zip(old, np.split(array, len(old), axis), strict=True))
    return np.concatenate([blocks[letter] for letter in new], axis)


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a + b`, where to add a zero changes no bit, not even the sign of another zero."""
    return np.where(b == 0, a, np.where(a == 0, b, a + b)).astype(a.dtype)


def add_biases(cell: Cell, inside: np.ndarray, outside: np.ndarray) -> Arrays:
    """One bias out of two, `[gates * hidden_size]`, of the input's product and of the hidden state's.

    They add up, but for a GRU that resets after its product: there the candidate keeps both.
    """
    if not (isinstance(cell, GRU) and cell.reset_after):
        return {"bias": add(inside, outside)}
    gates = slice(-cell.hidden_size)
    both = np.concatenate([add(inside[gates], outside[gates]), inside[-cell.hidden_size :]])
    return {"bias": both, "recurrent_bias": outside[-cell.hidden_size :]}


def add_to_forget(cell: LSTM, bias: np.ndarray, number: float) -> np.ndarray:
    """Adds a number to the bias of the forget gate, with flaxrnn's order of gates; TF1 and Haiku do so at run time."""
    if not number:
        return bias
    forget = cell.gates.index("forget") * cell.hidden_size
    bias = bias.copy()
    bias[forget : forget + cell.hidden_size] += np.asarray(number, bias.dtype)
    return bias


def part_bias(params: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Two biases out of one, of the input's product and of the hidden state's; the second is zero where it may be."""
    bias = params["bias"]
    outside = np.zeros_like(bias)
    if "recurrent_bias" in params:
        recurrent = params["recurrent_bias"]
        outside[-len(recurrent) :] = recurrent
    return bias, outside
