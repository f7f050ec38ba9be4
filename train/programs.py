"""The programs that train networks, by their names."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console

from train import charlm, memory, mnist
from train.network import NetworkOptions


class Program(NamedTuple):
    """A program that trains networks.

    Attributes:
      config: its options.
      run: from options to what `results.json` holds.
      score: from options, parameters and the name of a split ("train", "validation", "test") to metrics.
      measure: the metric by which networks are compared.
      baseline: under which name the results have what a simpler model attains, and what that is called.
      source: from options to what the data of a run are known by, where the options do not say that.
    """

    config: type[NetworkOptions]
    run: Callable[[Any, Console], dict[str, Any]]
    score: Callable[[Any, Any, str], dict[str, float]]
    measure: str
    baseline: tuple[str, str] | None = None
    source: Callable[[Any], dict[str, str]] = lambda config: {}


PROGRAMS = {
    "mnist": Program(mnist.Config, mnist.run, mnist.score, "accuracy"),
    "memory": Program(memory.Config, memory.run, memory.score, "loss", ("baseline", "remembers nothing")),
    "charlm": Program(
        charlm.Config, charlm.run, charlm.score, "bits", ("five_gram_bits", "5-gram model"), charlm.source
    ),
}
