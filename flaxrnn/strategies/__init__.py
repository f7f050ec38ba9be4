"""Strategies: how a cell's step is run over a whole sequence. All of them give the same numbers."""

from flaxrnn.strategies.plain import plain

STRATEGIES = {"plain": plain}
"""Every strategy by its name. All are called as `plain` is."""


def choose(name: str) -> str:
    """The name of the strategy to run; "auto" takes the best that there is.

    Raises:
      ValueError: if no strategy has that name.
    """
    if name == "auto":
        return "plain"
    if name not in STRATEGIES:
        raise ValueError(f"there is no strategy {name!r}: pass 'auto' or one of {', '.join(sorted(STRATEGIES))}")
    return name
