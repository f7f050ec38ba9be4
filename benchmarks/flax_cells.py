"""Flax's own cells, to compare with."""

from typing import Any

import flax.linen as nn

FLAX_CELLS: dict[str, tuple[Any, ...]] = {
    "lstm": (nn.LSTMCell, nn.OptimizedLSTMCell),
    "gru": (nn.GRUCell,),
    "elman": (nn.SimpleCell,),
}
"""By the name of ours."""
