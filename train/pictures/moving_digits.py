"""Clips, and the frames that a network predicted."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from train.pictures.style import GREY


def forecast(path: pathlib.Path, clips: np.ndarray, predicted: np.ndarray) -> None:
    """Draws each clip and, below its last frames, the predictions of them.

    Args:
      path: where to write the picture.
      clips: `[number, time, height, width]`, the true frames, from 0 to 1.
      predicted: `[number, steps, height, width]`, the last frames as predicted.
    """
    number, time = clips.shape[:2]
    seen = time - predicted.shape[1]
    figure = Figure(figsize=(0.7 * time + 0.7, 1.62 * number + 0.3), layout="constrained")
    rows = figure.subplots(2 * number, time, squeeze=False)
    for axes in rows.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for clip in range(number):
        true, below = rows[2 * clip : 2 * clip + 2]
        for step in range(time):
            true[step].imshow(clips[clip, step], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if step >= seen:
                below[step].imshow(predicted[clip, step - seen], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        true[0].set_ylabel("true", color=GREY)
        below[seen].set_ylabel("predicted", color=GREY)
    for step in range(time):
        rows[0, step].set_title(f"{step + 1}", fontsize=9, color="black" if step < seen else GREY)
    figure.savefig(path, dpi=110)
