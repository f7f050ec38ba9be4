"""Several networks beside each other, each trained from several seeds."""

import pathlib
from typing import NamedTuple

import numpy as np
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from train.pictures.style import GREY, plain


class Curve(NamedTuple):
    """How a network did.

    Attributes:
      name: of the network.
      steps: `[number]`, after which steps it was validated.
      validation: `[seeds, number]`, what the validations gave.
      test: `[seeds]`, what the test gave at the end.
    """

    name: str
    steps: list[int]
    validation: list[list[float]]
    test: list[float]


COLORS = [color for color in TABLEAU_COLORS.values() if color != TABLEAU_COLORS["tab:gray"]]  # which is the baseline's


def comparison(
    path: pathlib.Path, title: str, measure: str, curves: list[Curve], baseline: tuple[str, float] | None
) -> None:
    """Draws the validations of all networks against the step, and their tests.

    A line is the median of the seeds, the band around it reaches from the lowest to the highest. An accuracy is drawn
    as the share of errors, whose axis can be logarithmic.

    Args:
      path: where to write the picture.
      title: its title.
      measure: what is drawn.
      curves: the networks.
      baseline: the name of a simpler model and what it attains, or None.
    """
    drawn, name = (_errors, "errors") if measure == "accuracy" else (np.asarray, measure)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, curve in enumerate(curves):
        values, test, color = drawn(curve.validation), drawn(curve.test), COLORS[place % len(COLORS)]
        left.plot(curve.steps, np.median(values, axis=0), color=color, lw=1.5, label=curve.name)
        left.fill_between(curve.steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, lw=0)
        right.plot(np.full(len(test), place), test, "o", color=color, alpha=0.6, mec="none")
        right.hlines(np.median(test), place - 0.3, place + 0.3, color=color, lw=2)
    for axes in left, right:
        if baseline is not None:
            axes.axhline(baseline[1], color=GREY, ls="--", label=baseline[0])
        plain(axes)
    left.set_yscale("log")
    if measure == "accuracy":
        left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_xlabel("training step")
    left.set_ylabel(name)
    left.set_title("validation")
    left.legend(frameon=False, fontsize=9)
    right.set_title("test: each seed, and the median")
    right.set_xticks(range(len(curves)), [curve.name for curve in curves], rotation=30, ha="right", fontsize=9)
    figure.savefig(path, dpi=120)


def _errors(accuracy: object) -> np.ndarray:
    return np.maximum(1 - np.asarray(accuracy), 1e-5)
