"""What the gates and the state of a network do while it reads one image."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from train.pictures.style import GREY

EXPLAINED = {
    "input": "input gate\n1: takes in the candidate",
    "forget": "forget gate\n1: keeps the memory",
    "candidate": "candidate\nwhat could be taken in",
    "output": "output gate\n1: shows the memory",
    "reset": "reset gate\n1: the candidate sees the past",
    "update": "update gate\n1: keeps the state",
    "cell": "memory (cell state)",
    "hidden": "hidden state\nwhat the next layer sees",
}


def gates(path: pathlib.Path, title: str, image: np.ndarray, steps: dict[str, np.ndarray], kind: str = "row") -> None:
    """Draws an image and, beside it, step for step, each gate and the state; columns are ordered by when they act.

    Args:
      path: where to write the picture.
      title: its title.
      image: `[time, features]`, as the network reads it.
      steps: `[time, features]` by name, as `train.reading.read` gives.
      kind: what a step is called.
    """
    figure = Figure(figsize=(2.1 * (len(steps) + 1), 4.6), layout="constrained")
    figure.suptitle(title)
    first, *others = figure.subplots(1, len(steps) + 1, sharey=True)
    first.imshow(image, cmap="gray_r", aspect="auto", interpolation="nearest")
    first.set_title("what it reads\n", fontsize=9)
    first.set_ylabel(f"{kind} (time step)")
    order = np.argsort(np.argmax(np.abs(steps["hidden"]), axis=0), kind="stable")
    for axes, (name, values) in zip(others, steps.items(), strict=True):
        is_gate = name in ("input", "forget", "output", "reset", "update")
        limit = max(1.0, float(np.percentile(np.abs(values), 99)))
        columns = order if values.shape[1] == len(order) else slice(None)
        shown = axes.imshow(
            values[:, columns],
            cmap="Blues" if is_gate else "RdBu_r",
            vmin=0.0 if is_gate else -limit,
            vmax=1.0 if is_gate else limit,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_title(EXPLAINED.get(name, name), fontsize=9)
        axes.set_xlabel("feature", color=GREY)
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.8, pad=0.02)
    figure.savefig(path, dpi=110)
