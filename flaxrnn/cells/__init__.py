"""Cells: what a recurrent network does in one time step."""

from flaxrnn.cells.base import Cell, GatedCell, HiddenState
from flaxrnn.cells.elman import Elman
from flaxrnn.cells.gru import GRU, MGU
from flaxrnn.cells.lstm import LSTM, LSTMState
from flaxrnn.cells.registry import CELLS, make

__all__ = ["CELLS", "GRU", "LSTM", "MGU", "Cell", "Elman", "GatedCell", "HiddenState", "LSTMState", "make"]
