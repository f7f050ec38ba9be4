"""The arithmetic of layouts: gates in another order, two biases for one, and none."""

import dataclasses

import numpy as np

from flaxrnn.cells import GRU, LSTM, GatedCell
from flaxrnn.cells.base import Cell
from flaxrnn.checks import init_shapes
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


def with_biases(cell: Cell) -> GatedCell:
    """The cell with `use_bias=True`."""
    assert isinstance(cell, GatedCell), "frameworks have no others"
    return cell if cell.use_bias else dataclasses.replace(cell, use_bias=True)


def add_zero_biases(cell: Cell, params: Arrays) -> Arrays:
    """The parameters of `with_biases(cell)`: those of `cell`, and where it has no biases zeros."""
    kernel = params["kernel"]
    shapes = {name: like.shape for name, like in init_shapes(with_biases(cell), kernel.shape[-2]).items()}
    return params | {name: np.zeros(shape, kernel.dtype) for name, shape in shapes.items() if name not in params}


def drop_zero_biases(cell: Cell, params: Arrays) -> Arrays:
    """The parameters of `cell` from those of `with_biases(cell)`; an error if a bias that it lacks is not zero."""
    names = init_shapes(cell, params["kernel"].shape[-2])
    for name, array in params.items():
        if name not in names and np.any(array):
            raise ValueError(
                f"the weights have a {name} that is not zero, but {cell} has no biases: pass a layer of cells with "
                "use_bias=True"
            )
    return {name: array for name, array in params.items() if name in names}
