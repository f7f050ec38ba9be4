"""The curve of a network that learns to remember."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from train.pictures.style import BLUE, GREY, plain


def curve(path: pathlib.Path, title: str, metrics: list[dict[str, Any]], baseline: float) -> None:
    """Draws the validation loss of a network against the step, and that of one that remembers nothing.

    Args:
      path: where to write the picture.
      title: its title.
      metrics: the lines of `metrics.jsonl`.
      baseline: the loss of a network that remembers nothing.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(baseline, color=GREY, ls="--", label="remembers nothing")
    lines = [line for line in metrics if line["split"] == "validation"]
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=BLUE, marker="o", ms=3)
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel("training step")
    axes.set_ylabel("validation loss")
    axes.legend(frameon=False)
    plain(axes)
    figure.savefig(path, dpi=120)
