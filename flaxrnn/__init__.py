"""flaxrnn: recurrent sequence models for JAX and Flax, as pure functions."""

from flaxrnn import cells
from flaxrnn.explain import explain
from flaxrnn.last import last
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack
from flaxrnn.scan import scan
from flaxrnn.strategies import STRATEGIES

__version__ = "0.1.0"

__all__ = ["RNN", "STRATEGIES", "Bidirectional", "Layer", "Stack", "cells", "explain", "last", "scan"]
