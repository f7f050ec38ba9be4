"""Reads digits from pictures: `python -m train.predict runs/mnist-gru-DATE digit.png ...`."""

import dataclasses
import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.table import Table

import flaxrnn
from train import readout, runs
from train.classifier import READINGS, Classifier
from train.errors import UserError, told_to_the_user
from train.mnist import Config
from train.pictures.reading import reading

INK = 20  # the side of the square that MNIST's digits were brought to, in pixels
SIDE = 28
PIXELS = 50_000_000
"""The largest picture that is read; decoding takes 20 bytes and more for each pixel."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Read digits from pictures of any size, dark on light or light on dark."""

    workdir: tyro.conf.Positional[pathlib.Path]
    """Where a run of train.mnist left its results."""
    images: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Pictures of one digit each."""
    out: pathlib.Path | None = None
    """Where to draw how the state changes while each is read; by default beside the picture, as NAME.reading.png."""


def load_image(path: pathlib.Path) -> np.ndarray:
    """A picture of a digit as MNIST's are: `[28, 28]` from 0 to 1, ink is 1.

    As in MNIST, the digit is brought into a square of 20 pixels, and its centre of mass at (14, 14) of 28.

    Raises:
      UserError: if it is no picture, or there is nothing on it.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:  # damage beside the pixels, and size
            if image.width * image.height > PIXELS:
                raise UserError(
                    f"{path} has {image.width} x {image.height} pixels: pass a picture of at most {PIXELS:,} pixels"
                )
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            paper = Image.new("RGBA", upright.size, _paper(upright))
            grey = np.asarray(Image.alpha_composite(paper, upright).convert("L"), np.float32) / 255
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = np.abs(grey - np.median(edge))  # the paper is what the edge is made of
    ink[ink < 0.1 * ink.max(initial=0)] = 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows) or ink.max() < 0.05:
        raise UserError(f"{path} has one colour only: pass a picture with a digit on it")
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / ink.max()
    scale = INK / max(digit.shape)
    size = [max(1, round(side * scale)) for side in digit.shape[::-1]]
    small = np.asarray(
        Image.fromarray(digit).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    )
    small = np.clip(small, 0, 1)
    mass = small.sum()
    centre = [float((small.sum(1 - axis) * np.arange(small.shape[axis])).sum() / mass) for axis in (0, 1)]
    top, left = (round(SIDE / 2 - place) for place in centre)
    canvas = np.zeros((3 * SIDE, 3 * SIDE), np.float32)
    canvas[SIDE + top : SIDE + top + small.shape[0], SIDE + left : SIDE + left + small.shape[1]] = small
    return canvas[SIDE : 2 * SIDE, SIDE : 2 * SIDE]


def _paper(image: Image.Image) -> str:
    """What is seen behind a picture with transparent parts: the opposite of its ink."""
    grey, opaque = (np.asarray(image.convert("LA"))[..., channel] for channel in (0, 1))
    return "black" if np.sum(grey.astype(float) * opaque) > 128 * np.sum(opaque, dtype=float) else "white"


def answers_by_step(
    classifier: Classifier, params: Any, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network reads, the output of its top layer, and its answer after each step, `[time, ...]` each."""
    params, images = jax.tree.map(lambda leaf: leaf.astype(classifier.precision), (params, jnp.asarray(image)[None]))
    sequence = READINGS[classifier.read](images)
    _, outputs = classifier.layers.apply(params["layers"], sequence, strategy=classifier.strategy)
    answers = jax.nn.softmax(readout.read_out(params, outputs[0]))
    return np.asarray(sequence[0], np.float32), np.asarray(outputs[0], np.float32), np.array(answers)


def drawings(options: Options) -> list[pathlib.Path]:
    """Where to draw how each picture is read; the folders are made.

    Raises:
      UserError: if there are no pictures, two would be drawn in one file, or a folder cannot be made.
    """
    if not options.images:
        raise UserError("there is no picture to read: pass one or more after the workdir")
    drawn = [(options.out or path.parent) / f"{path.stem}.reading.png" for path in options.images]
    inputs = {path.resolve() for path in options.images}
    for path, drawing in zip(options.images, drawn, strict=True):
        if drawing.resolve() in inputs:
            raise UserError(f"what is drawn of {path} would overwrite the picture {drawing}: pass another --out")
        if drawn.count(drawing) > 1:
            raise UserError(f"{path} and another picture would both be drawn in {drawing}: pass them one by one")
        try:
            drawing.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{drawing.parent} cannot be made ({error}): pass another --out") from error
    return drawn


def run(options: Options, console: Console) -> list[tuple[int, float]]:
    """Reads the pictures; returns the class and the confidence for each."""
    config, params = runs.load(Config, options.workdir)
    classifier = config.make_classifier()
    drawn = drawings(options)
    images = np.stack([load_image(path) for path in options.images])
    probabilities = np.asarray(jax.nn.softmax(classifier.apply(params, jnp.asarray(images))))
    table = Table("picture", "digit", "confidence")
    found = []
    for path, drawing, image, one in zip(options.images, drawn, images, probabilities, strict=True):
        digit, confidence = int(np.argmax(one)), float(np.max(one))
        found.append((digit, confidence))
        table.add_row(str(path), str(digit), f"{confidence:.1%}")
        read, hidden, answers = answers_by_step(classifier, params, image)
        if isinstance(classifier.layers.layers[-1], flaxrnn.Bidirectional):
            answers[-1] = one  # half of the state has read the other way
        title = f"{path.name}: {digit}, {confidence:.1%}"
        reading(drawing, title, read, hidden, answers, config.read.split("-")[-1].rstrip("s"))
    console.print(table, highlight=False)
    return found


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Options, prog="python -m train.predict", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
