"""How ONNX lays out the arrays of its LSTM, GRU and RNN operators."""

from typing import ClassVar

import numpy as np

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import relu, tanh
from flaxrnn.interop.arithmetic import ANY, Cells, sigmoid
from flaxrnn.interop.arrays import Arrays
from flaxrnn.interop.blocks import add_biases, part_bias, reorder
from flaxrnn.interop.layout import Layout, Site
from flaxrnn.interop.places import Place

OPERATORS = {LSTM: "LSTM", GRU: "GRU", Elman: "RNN"}
ACTIVATIONS = {"Tanh": tanh, "Relu": relu, "Sigmoid": sigmoid}
"""The functions that an Elman network may have, by ONNX's name."""


class ONNXLayout(Layout):
    """The arrays of one direction of one operator."""

    framework = "ONNX"
    leaves = ("W", "R", "B", "P")
    biases = ("B",)
    cells: ClassVar[Cells] = {
        LSTM: {"peephole": ANY, "coupled": ANY},
        GRU: {"reset_after": ANY},
        Elman: {"activation": tuple(ACTIVATIONS.values())},
    }

    def write(self, cell: Cell, params: Arrays) -> Arrays:
        inside, outside = part_bias(params)
        arrays = {"W": params["kernel"], "R": params["recurrent_kernel"], "Wb": inside, "Rb": outside}
        if isinstance(cell, LSTM) and cell.peephole:
            arrays["P"] = np.concatenate(params["peephole"])
        if isinstance(cell, LSTM):
            if cell.coupled:
                arrays = {name: _with_input_gate(array, 2 if name == "P" else 3) for name, array in arrays.items()}
            arrays = {name: reorder(array, *_lstm_order(name)) for name, array in arrays.items()}
        elif isinstance(cell, GRU):
            arrays = {name: reorder(array, "rzn", "zrn") for name, array in arrays.items()}
        bias = {"B": np.concatenate([arrays.pop("Wb"), arrays.pop("Rb")])}
        return {name: array.T for name, array in arrays.items()} | bias

    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        inside, outside = np.split(arrays["B"], 2)
        arrays = {name: array.T for name, array in arrays.items() if name != "B"} | {"Wb": inside, "Rb": outside}
        if isinstance(cell, LSTM):
            arrays = {name: reorder(array, *_lstm_order(name)[::-1]) for name, array in arrays.items()}
            if cell.coupled:
                arrays = {name: _without_input_gate(array, 3 if name == "P" else 4) for name, array in arrays.items()}
        elif isinstance(cell, GRU):
            arrays = {name: reorder(array, "zrn", "rzn") for name, array in arrays.items()}
        params = {
            "kernel": arrays["W"],
            "recurrent_kernel": arrays["R"],
            **add_biases(cell, arrays["Wb"], arrays["Rb"]),
        }
        if "P" in arrays:
            params["peephole"] = arrays["P"].reshape(-1, cell.output_size)
        return params

    def cell_for(self, site: Site) -> Cell | None:
        if not {"W", "R"} <= site.arrays.keys():
            return None
        rows, size = site.matrix("R")
        kind = self.kind(rows, size)
        if kind is LSTM:
            return LSTM(size, peephole="P" in site.arrays)
        return None if kind is None else kind(size)

    def path(self, place: Place, before: list[Place]) -> str:
        return "/".join([f"layer_{place.number or 0}"] + [place.direction] * bool(place.direction))


def _lstm_order(name: str) -> tuple[str, str]:
    """The gates' order here and in ONNX; peepholes have no g."""
    return ("ifo", "iof") if name == "P" else ("ifgo", "iofg")


def _with_input_gate(array: np.ndarray, blocks: int) -> np.ndarray:
    """Coupled gates, f first, with the input gate that they imply before them."""
    forget = np.split(array, blocks, axis=-1)[0]
    return np.concatenate([-forget, array], axis=-1)


def _without_input_gate(array: np.ndarray, blocks: int) -> np.ndarray:
    """Gates i, f, ... of an operator with `input_forget`, which computes f from i and not from f's own weights."""
    gates = np.split(array, blocks, axis=-1)
    return np.concatenate([-gates[0], *gates[2:]], axis=-1)
