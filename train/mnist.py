"""Trains a recurrent network that reads each MNIST digit row by row: a row of 28 pixels is a time step.

    python -m train.mnist --cell=gru

At the end it says how many of the 10,000 test images the network gets right, and leaves in its workdir the
configuration, the metrics, the results and three pictures.
"""

import dataclasses
import math
import pathlib
import time
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import flaxrnn
from train import loop, pictures
from train.classifier import Classifier
from train.data import mnist
from train.errors import UserError, told_to_the_user
from train.progress import ProgressDisplay
from train.workdir import Workdir, default_path

CLASSES = 10
ROW = 28
EPOCHS = 15
LOG_EVERY = 20
# options of a cell, with the values at which they need not be passed on
CELL_OPTIONS = dict(
    peephole=None, coupled=None, forget_bias=None, reset_after=None, layer_norm=False, recurrent_dropout=0.0
)


def default(text: str) -> Any:
    """What `--help` says in place of an option's default."""
    return tyro.conf.arg(help_behavior_hint=f"({text})")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a recurrent network that reads each MNIST digit row by row: a row of 28 pixels is a time step."""

    cell: Annotated[str, tyro.conf.arg(metavar="|".join(flaxrnn.cells.CELLS))] = "gru"
    """What happens in one time step."""
    hidden_size: int = 128
    """Features of the hidden state, in each direction."""
    layers: int = 1
    """Recurrent layers on top of each other."""
    bidirectional: bool = False
    """Read from the top and from the bottom, with a cell for each direction."""
    peephole: Annotated[bool | None, default("lstm; default: no")] = None
    """The gates see the cell state."""
    coupled: Annotated[bool | None, default("lstm; default: no")] = None
    """The input gate is one minus the forget gate."""
    forget_bias: Annotated[float | None, default("lstm; default: 1.0")] = None
    """Where the bias of the forget gate begins."""
    reset_after: Annotated[bool | None, default("gru, mgu; default: yes")] = None
    """The reset gate acts after the matrix product; before it in the GRU of arXiv 1406.1078v3."""
    dropout: float = 0.0
    """How many features are dropped between the layers, and before the last dense one."""
    recurrent_dropout: float = 0.0
    """How many features of the candidate are dropped, the same ones at all steps."""
    zoneout: float = 0.0
    """How many features of the state stay what they were, at each step anew."""
    layer_norm: bool = False
    """Layer normalisation inside the gates."""
    residual: bool = False
    """Each layer but the first adds its input to its output."""
    batch_size: int = 128
    """Images in a training step."""
    learning_rate: Annotated[float | None, default("default: fits the cell and the number of steps")] = None
    """The highest learning rate; it goes up to it and then down, once."""
    epochs: Annotated[float | None, default(f"default: {EPOCHS}")] = None
    """How often to go through the 55,000 training images."""
    steps: Annotated[int | None, default("default: as --epochs says")] = None
    """How many training steps to do, instead of --epochs."""
    shift: int = 1
    """Training images are shifted at random by up to so many pixels, so that there are more of them to learn from."""
    seed: int = 0
    """For the initial weights and the order of the images. The same seed gives the same numbers."""
    workdir: Annotated[pathlib.Path | None, default("default: runs/mnist-CELL-DATE")] = None
    """Where the run leaves its results and pictures."""
    data_dir: Annotated[pathlib.Path | None, default("default: ~/tensorflow_datasets")] = None
    """Where tensorflow-datasets keeps the prepared images."""

    def make_classifier(self) -> Classifier:
        """The network that the options describe.

        Raises:
          UserError: if they do not describe one.
        """
        if self.cell not in flaxrnn.cells.CELLS:
            raise UserError(f"--cell={self.cell}: there is no such cell: pass one of {', '.join(flaxrnn.cells.CELLS)}")
        options = {name: getattr(self, name) for name, usual in CELL_OPTIONS.items() if getattr(self, name) != usual}
        for name in options:
            owners = [cell for cell in flaxrnn.cells.CELLS if name in option_names(cell)]
            if self.cell not in owners:
                given = flag(f"no_{name}" if options[name] is False else name)
                raise UserError(f"{given} does not go with --cell={self.cell}: it is an option of {', '.join(owners)}")
        try:
            cell = flaxrnn.cells.make(self.cell, hidden_size=self.hidden_size, **options)
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.zoneout:
            has_memory = hasattr(jax.eval_shape(cell.initial_state), "cell")
            cell = flaxrnn.cells.Zoneout(cell, self.zoneout, self.zoneout if has_memory else 0.0)
        layer = flaxrnn.Bidirectional(cell, cell) if self.bidirectional else flaxrnn.RNN(cell)
        return Classifier(flaxrnn.Stack([layer] * self.layers, self.dropout, self.residual), CLASSES)

    def total_steps(self, images: int) -> int:
        """How many training steps to do with so many training images."""
        if self.batch_size > images:
            raise UserError(
                f"--batch-size={self.batch_size}: there are {images} training images: pass no more than that"
            )
        if self.steps is not None:
            return self.steps
        return max(1, round((EPOCHS if self.epochs is None else self.epochs) * images / self.batch_size))

    def peak_learning_rate(self, steps: int) -> float:
        """The highest learning rate; the default did best on the validation set, and falls as a run gets longer."""
        if self.learning_rate is not None:
            return self.learning_rate
        short_run = 3e-3 if self.cell in ("elman", "rnn") else 1e-2
        return short_run * min(1.0, (800 / steps) ** 0.5)

    def check(self) -> None:
        """Raises a `UserError` unless the numbers can be trained with."""
        for name in ("hidden_size", "layers", "batch_size", "learning_rate", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 2**31:
                raise UserError(f"{flag(name)}={value}: pass a positive number below 2^31")
        if self.epochs is not None and self.steps is not None:
            raise UserError("--epochs and --steps both say how long to train: pass one of them")
        if self.forget_bias is not None and not math.isfinite(self.forget_bias):
            raise UserError(f"--forget-bias={self.forget_bias}: pass a finite number")
        for name in ("dropout", "recurrent_dropout", "zoneout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"{flag(name)}={value}: pass a probability, from 0 up to but not 1")
        if self.residual and self.layers == 1:
            raise UserError("--residual needs a layer to add to: pass --layers=2 or more")
        if not 0 <= self.shift < ROW:
            raise UserError(f"--shift={self.shift}: pass a number of pixels from 0 to {ROW - 1}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed={self.seed}: pass a number from 0 to {2**32 - 1}")


def flag(name: str) -> str:
    """The option of the command line that sets the field `name`."""
    return f"--{name.replace('_', '-')}"


def option_names(cell: str) -> set[str]:
    """The names of the options that a cell's constructor takes."""
    return {field.name for field in dataclasses.fields(flaxrnn.cells.CELLS[cell])}


class Report:
    """Tells the user and the workdir how the training goes."""

    def __init__(self, display: ProgressDisplay, workdir: Workdir) -> None:
        self.display = display
        self.workdir = workdir

    def train(self, step: int, metrics: dict[str, float]) -> None:
        self.display.train(step, metrics["loss"], metrics["accuracy"], metrics["seconds"])
        self.workdir.log(split="train", step=step, **metrics)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        self.display.validation(step, metrics["loss"], metrics["accuracy"])
        self.workdir.log(split="validation", step=step, **metrics)


def run(config: Config, console: Console) -> dict[str, Any]:
    """Trains and evaluates as `config` says; returns what `results.json` holds."""
    start = time.perf_counter()
    config.check()
    classifier = config.make_classifier()
    data = mnist.load(config.data_dir)
    steps = config.total_steps(len(data.train.labels))
    learning_rate = config.peak_learning_rate(steps)
    workdir = Workdir(config.workdir or default_path(f"mnist-{config.cell}"))
    resolved = dataclasses.replace(config, steps=steps, learning_rate=learning_rate, workdir=workdir.path)
    workdir.write_config({**dataclasses.asdict(resolved), "network": repr(classifier.layers)})
    params = classifier.init(jax.random.key(config.seed), ROW)
    console.print(
        f"{classifier.layers}\n{steps} steps of {config.batch_size} images on {jax.devices()[0].device_kind}",
        highlight=False,
    )

    with ProgressDisplay(console, steps) as display:
        params = loop.train(
            classifier,
            params,
            mnist.batches(data.train, config.batch_size, config.seed, config.shift),
            data.validation,
            learning_rate=learning_rate,
            steps=steps,
            log_every=LOG_EVERY,
            validate_every=max(1, min(steps // 10, len(data.train.labels) // config.batch_size)),
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            reporter=Report(display, workdir),
        )
    test = loop.evaluate(classifier, params, data.test)
    results = {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 2),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
    workdir.write_results(results)
    draw(workdir, f"MNIST row by row: {config.cell}", data.test, test)
    show(console, results, len(data.test.labels), workdir)
    return results


def draw(workdir: Workdir, title: str, split: mnist.Split, evaluation: loop.Evaluation) -> None:
    """Draws the three pictures of the run."""
    predictions = np.argmax(evaluation.probabilities, axis=-1)
    pictures.curves(workdir.path / "curves.png", title, workdir.metrics)
    pictures.confusion(workdir.path / "confusion.png", title, split.labels, predictions, CLASSES)
    pictures.mistakes(workdir.path / "mistakes.png", title, split.images, split.labels, evaluation.probabilities)


def show(console: Console, results: dict[str, Any], images: int, workdir: Workdir) -> None:
    """Prints the results as a short table."""
    table = Table(show_header=False)
    table.add_row("test accuracy", f"{results['test_accuracy']:.2%} of {images:,} images")
    table.add_row("test loss", f"{results['test_loss']:.4f}")
    table.add_row("steps", f"{results['steps']:,}")
    table.add_row("time", f"{results['seconds']:.0f} s")
    table.add_row("parameters", f"{results['parameters']:,}")
    table.add_row("workdir", str(workdir.path))
    console.print(table, highlight=False)


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Config, prog="python -m train.mnist", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
