"""How a network's answer and its state change while it reads one image."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from train.pictures.style import GREY, plain


def reading(
    path: pathlib.Path, title: str, image: np.ndarray, hidden: np.ndarray, probabilities: np.ndarray, kind: str = "row"
) -> None:
    """Draws an image, the state at each step, and what the network would answer if it stopped there.

    Args:
      path: where to write the picture.
      title: its title.
      image: `[time, features]`, as the network reads it.
      hidden: `[time, features]`, the state of the layer on top.
      probabilities: `[time, classes]`, the answer after each step.
      kind: what a step is called.
    """
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    figure.suptitle(title)
    left, middle, right = figure.subplots(1, 3, sharey=True)
    left.imshow(image, cmap="gray_r", aspect="auto", interpolation="nearest")
    left.set_title("what it reads")
    left.set_ylabel(f"{kind} (time step)")
    order = np.argsort(np.argmax(np.abs(hidden), axis=0), kind="stable")
    middle.imshow(hidden[:, order], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    middle.set_title("hidden state")
    middle.set_xlabel("feature", color=GREY)
    final = int(np.argmax(probabilities[-1]))
    for digit in range(probabilities.shape[1]):
        is_final = digit == final
        steps = np.arange(len(probabilities))
        right.plot(probabilities[:, digit], steps, color=f"C{digit}", lw=3.0 if is_final else 1.2, label=str(digit))
    right.set_title("its answer, if it stopped here")
    right.set_xlabel("probability")
    right.set_xlim(0, 1)
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain(right)
    figure.savefig(path, dpi=110)
