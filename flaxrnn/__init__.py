"""flaxrnn: recurrent sequence models for JAX and Flax, as pure functions."""

from flaxrnn import cells, strategies
from flaxrnn._explain import explain
from flaxrnn._last import last
from flaxrnn._scan import scan
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack
from flaxrnn.strategies import STRATEGIES

__version__ = "0.1.0"

__all__ = ["RNN", "STRATEGIES", "Bidirectional", "Layer", "Stack", "cells", "explain", "last", "scan", "strategies"]
