"""The pictures of a run: the curves, the confusion matrix, and the worst mistakes."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from train.pictures.style import BLUE, GREY, ORANGE, plain

ERRORS = LinearSegmentedColormap.from_list("errors", ["#ffffff", "#fbd9b5", ORANGE, "#7a2e04"])
SMALLEST = 1e-8  # what a loss of zero is drawn as, where the axis is logarithmic
ACCURACIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)


def curves(path: pathlib.Path, title: str, metrics: list[dict[str, Any]]) -> None:
    """Draws loss and accuracy against the step, in training and in validation.

    Args:
      path: where to write the picture.
      title: its title.
      metrics: the lines of `metrics.jsonl`.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    for axes, name in (loss, "loss"), (accuracy, "accuracy"):
        for split, style in ("train", dict(color=BLUE, alpha=0.8)), ("validation", dict(color=ORANGE, marker="o")):
            lines = [line for line in metrics if line["split"] == split]
            values = [max(line[name], SMALLEST) for line in lines]
            axes.plot([line["step"] for line in lines], values, ms=4, lw=1.3, label=split, **style)
        axes.set_title(name)
        axes.set_xlabel("step")
        plain(axes)
    loss.set_yscale("log")
    loss.set_ylabel("cross entropy")
    _stretch_towards_one(accuracy)
    loss.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _stretch_towards_one(axes: Axes) -> None:
    """Gives each halving of the error the same room, and ends at 100%."""
    edge = 5e-4
    functions = lambda y: -np.log(1 - np.minimum(y, 1) + edge), lambda v: 1 + edge - np.exp(-v)
    axes.set_yscale("function", functions=functions)
    worst = min(float(np.min(line.get_ydata(), initial=1.0)) for line in axes.lines)
    ticks = [accuracy for accuracy in ACCURACIES if accuracy >= worst or accuracy == ACCURACIES[0]]
    axes.set_yticks(ticks, [f"{accuracy:.1%}" for accuracy in ticks], minor=False)
    axes.set_ylim(max(0.0, worst - 0.05), 1.0)


def confusion(path: pathlib.Path, title: str, labels: np.ndarray, predictions: np.ndarray, classes: int) -> None:
    """Draws how often each class was taken for each other one.

    Args:
      path: where to write the picture.
      title: its title.
      labels: `[number]`, the true classes.
      predictions: `[number]`, the classes that the network gave.
      classes: how many classes there are.
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(wrong, cmap=ERRORS, vmin=0, vmax=max(wrong.max(), 1))
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            axes.text(column, row, count, ha="center", va="center", color=BLUE, weight="bold")
        elif count:
            color = "white" if count > 0.6 * wrong.max() else "black"
            axes.text(column, row, count, ha="center", va="center", color=color)
    axes.set_title(f"{title}\n{wrong.sum():,} of {len(labels):,} wrong")
    axes.set_xlabel("the network's answer")
    axes.set_ylabel("label")
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.grid(True, which="minor", color=GREY, alpha=0.25)
    axes.tick_params(length=0, which="both")
    axes.spines[:].set_color(GREY)
    figure.savefig(path, dpi=120)


def mistakes(
    path: pathlib.Path, title: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, most: int = 24
) -> None:
    """Draws the images that the network got wrong with the greatest confidence.

    Args:
      path: where to write the picture.
      title: its title.
      images: `[number, height, width]`.
      labels: `[number]`, the true classes.
      probabilities: `[number, classes]`, what the network gave to each class.
      most: how many images to draw, the worst first.
    """
    predictions, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    columns = 8
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(columns * 1.35, rows * 1.75 + 0.6), layout="constrained")
    figure.suptitle(f"{title}\nthe surest of its {len(wrong):,} mistakes: label → answer, confidence")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, number in zip(figure.axes, worst, strict=False):
        axes.imshow(images[number], cmap="gray_r", interpolation="nearest")
        axes.set_title(f"{labels[number]} → {predictions[number]}  {confidence[number]:.0%}", fontsize=10, color=ORANGE)
    figure.savefig(path, dpi=120)
