"""Strategies: how a cell's step is run over a whole sequence. All of them give the same numbers."""

from flaxrnn.strategies.base import Sequence, Steps, Strategy
from flaxrnn.strategies.checkpointed import Checkpointed
from flaxrnn.strategies.fused import Fused
from flaxrnn.strategies.native import Native
from flaxrnn.strategies.pallas import Pallas
from flaxrnn.strategies.plain import Plain

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (Plain(), Fused(), Native(), Checkpointed(), Pallas())
}
"""Every strategy by its name."""

__all__ = ["STRATEGIES", "Checkpointed", "Fused", "Native", "Pallas", "Plain", "Sequence", "Steps", "Strategy"]
