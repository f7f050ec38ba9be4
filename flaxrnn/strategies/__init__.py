"""Strategies: how a cell's step is run over a whole sequence. All of them give the same numbers."""

from flaxrnn.strategies.checkpointed import checkpointed
from flaxrnn.strategies.fused import fused
from flaxrnn.strategies.plain import plain

STRATEGIES = {"plain": plain, "fused": fused, "checkpointed": checkpointed}
"""Every strategy by its name. All are called as `plain` is."""


def check_strategy(name: str) -> None:
    """Raises an error unless `name` is "auto" or a strategy's."""
    if name != "auto" and name not in STRATEGIES:
        raise ValueError(f"there is no strategy {name!r}: pass 'auto' or one of {', '.join(sorted(STRATEGIES))}")
