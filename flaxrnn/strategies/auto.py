"""Which strategy runs a sequence: the one requested, or for "auto" the one expected to be fastest."""

import math
from typing import Any, NamedTuple

import jax

from flaxrnn.strategies import STRATEGIES
from flaxrnn.strategies.base import Sequence, Strategy, symbolic
from flaxrnn.strategies.fused import products_of

FEW_STEPS = 4
"""Up to this many steps, no strategy is faster than plain."""
SHORT, LARGE_STEP = 64, 49_152
"""On the CPU, at most SHORT steps of at least LARGE_STEP gate values run faster under plain."""

WORTH_A_BUILD = 2**23
"""On the CPU, sequences with at least this many multiplications in their products are worth compiling a kernel for."""

LARGE_TPU_STEP = 98_304
"""On a TPU, the compiler expects steps of at least this many gate values to run faster under plain."""


class Choice(NamedTuple):
    """A strategy, and why it was chosen, as half a sentence."""

    strategy: Strategy
    reason: str


def check_strategy(strategy: str | Strategy) -> None:
    """Raises an error unless `strategy` is "auto", a strategy's name, or a strategy."""
    if isinstance(strategy, Strategy) or strategy == "auto" or (isinstance(strategy, str) and strategy in STRATEGIES):
        return
    known = ", ".join(sorted(STRATEGIES))
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        raise TypeError(f"strategy is the class {strategy.__name__}: pass an instance, {strategy.__name__}()")
    raise ValueError(
        f"there is no strategy {strategy!r}: pass 'auto', one of {known}, or an object such as "
        "flaxrnn.strategies.Checkpointed(segments=8)"
    )


def choose(strategy: str | Strategy, sequence: Sequence, backend: str | None = None) -> Choice:
    """The strategy that runs a sequence, and why.

    Args:
      strategy: "auto", a name in `STRATEGIES`, or a strategy.
      sequence: the cell and the shapes.
      backend: "cpu", "gpu" or "tpu"; by default JAX's default backend. The rules for the CPU come from training steps
        measured on two cores, those for GPU and TPU from their compilers' estimates: nothing has run there.

    Raises:
      ValueError: if the requested strategy cannot run the sequence.
    """
    plain = STRATEGIES["plain"]
    if not symbolic(sequence.shape[0]) and sequence.shape[0] == 0:
        return Choice(plain, "there is no step to run")
    if strategy == "auto":
        return _automatic(plain, STRATEGIES["fused"], sequence, backend or jax.default_backend())
    chosen = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    if reason := chosen.why_not(sequence):
        raise ValueError(f"strategy {chosen.name!r} cannot run {sequence.cell!r}: {reason}; pass strategy='auto'")
    return Choice(chosen, "it was asked for")


def _large_enough(sequence: Sequence) -> bool:
    """Whether a sequence is worth compiling a kernel for."""
    kernels = [leaf for leaf in jax.tree.leaves(sequence.params) if len(leaf.shape) == 2]
    return not symbolic(*sequence.shape) and math.prod(sequence.shape) * sum(map(_size, kernels)) >= WORTH_A_BUILD


def _size(leaf: Any) -> int:
    return math.prod(leaf.shape)


def _automatic(plain: Strategy, fused: Strategy, sequence: Sequence, backend: str) -> Choice:
    """What "auto" chooses: never "checkpointed", which trades time for memory, nor "pallas", which has never run."""
    if backend == "cpu" and _large_enough(sequence) and not (native := STRATEGIES["native"]).why_not(sequence):
        return Choice(native, "a compiled kernel is fastest on the CPU")
    if reason := fused.why_not(sequence):
        return Choice(plain, f"fused cannot run it: {reason}")
    if not products_of(sequence):
        return Choice(plain, f"{type(sequence.cell).__name__}.recur makes no matrix product through `product`")
    time = sequence.shape[0]
    if backend == "cpu" and sequence.cell.feature_axes > 1:
        return Choice(fused, "XLA's own gradients of convolutions are slow in a loop on the CPU")
    if time <= FEW_STEPS:
        return Choice(plain, f"there are {FEW_STEPS} steps or fewer")
    step = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sequence.projected()))
    if backend == "cpu" and time <= SHORT and step >= LARGE_STEP:
        return Choice(
            plain,
            f"on the CPU, {SHORT} steps or fewer of {LARGE_STEP:,} gate values or more (here {step:,}) gain nothing "
            "from larger products",
        )
    if backend == "tpu" and step >= LARGE_TPU_STEP:
        return Choice(
            plain,
            f"on a TPU, steps of {LARGE_TPU_STEP:,} gate values or more (here {step:,}) gain nothing from larger "
            "products, by its compiler's estimate (not measured)",
        )
    return Choice(fused, "larger matrix products are faster" + ("" if backend == "cpu" else " (not measured here)"))
