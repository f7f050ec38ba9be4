"""Layers: from sequences to sequences. One cell, two cells in opposite directions, or layers on top of each other."""

from flaxrnn.layers.base import Layer, LayerCell, ScanOptions, split_key
from flaxrnn.layers.bidirectional import Bidirectional
from flaxrnn.layers.rnn import RNN
from flaxrnn.layers.stack import Stack, drop

__all__ = ["RNN", "Bidirectional", "Layer", "LayerCell", "ScanOptions", "Stack", "drop", "split_key"]
