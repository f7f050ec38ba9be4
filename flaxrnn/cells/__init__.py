"""Cells: what a recurrent network does in one time step."""

from flaxrnn.cells.base import Cell, HiddenState
from flaxrnn.cells.conv import ConvCell, ConvGRU, ConvLSTM
from flaxrnn.cells.elman import Elman
from flaxrnn.cells.gated import GatedCell
from flaxrnn.cells.gru import GRU, MGU
from flaxrnn.cells.lstm import LSTM, LSTMState
from flaxrnn.cells.products import MatrixProducts, Product
from flaxrnn.cells.registry import CELLS, make
from flaxrnn.cells.zoneout import Zoneout

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "MGU",
    "Cell",
    "ConvCell",
    "ConvGRU",
    "ConvLSTM",
    "Elman",
    "GatedCell",
    "HiddenState",
    "LSTMState",
    "MatrixProducts",
    "Product",
    "Zoneout",
    "make",
]
