"""Trains a recurrent network that reads each MNIST digit row by row: a row of 28 pixels is a time step.

    python -m train.mnist --cell=gru

At the end it says how many of the 10,000 test images the network gets right, and leaves in its workdir the
configuration, the metrics, checkpoints, the results and pictures.
"""

import dataclasses
import pathlib
import time
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from train import devices, reading
from train.classifier import READINGS, Classifier
from train.data import mnist
from train.errors import UserError, told_to_the_user
from train.evaluation import Evaluation, evaluate
from train.launch import launch
from train.network import NetworkOptions
from train.options import check_positive, default, flag
from train.pictures import gates
from train.pictures import mnist as pictures
from train.report import show
from train.workdir import Workdir, open_workdir

CLASSES = 10
ROW = 28
EPOCHS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NetworkOptions):
    """Train a recurrent network that reads each MNIST digit row by row: a row of 28 pixels is a time step."""

    bidirectional: bool = False
    """Read from the beginning and from the end, with a cell for each direction."""
    read: Literal["rows", "columns", "pixels", "permuted-pixels"] = "rows"
    """What a time step is; pixels are 784 steps, in one fixed random order if permuted."""
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
    data_dir: Annotated[pathlib.Path | None, default("default: ~/tensorflow_datasets")] = None
    """Where tensorflow-datasets keeps the prepared images."""

    def check(self) -> None:
        """Raises a `UserError` unless the numbers can be trained with."""
        super().check()
        check_positive(self, "learning_rate", "epochs", "steps")
        if self.epochs is not None and self.steps is not None:
            raise UserError("--epochs and --steps both say how long to train: pass one of them")
        if not 0 <= self.shift < ROW:
            raise UserError(f"--shift={self.shift}: pass a number of pixels from 0 to {ROW - 1}")

    def make_classifier(self) -> Classifier:
        """The network that the options describe."""
        return Classifier(self.make_layers(self.bidirectional), CLASSES, self.read, self.strategy, self.precision)

    def make_task(self, answers: int) -> Classifier:
        """As `make_classifier`: there are ten digits in any case."""
        return self.make_classifier()

    def total_steps(self, images: int) -> int:
        """How many training steps to do with so many training images."""
        if self.batch_size > images:
            raise UserError(
                f"{flag('batch_size')}={self.batch_size}: there are {images} training images: pass no more than that"
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

    def resolved(self, images: int) -> "Config":
        """The options with how long and how fast to learn filled in, as they hold in any folder."""
        steps = self.total_steps(images)
        rate = self.peak_learning_rate(steps)
        data_dir = self.data_dir and self.data_dir.absolute()
        return dataclasses.replace(self, steps=steps, epochs=None, learning_rate=rate, data_dir=data_dir)


def run(config: Config, console: Console) -> dict[str, Any]:
    """Trains and evaluates as `config` says; returns what `results.json` holds."""
    start = time.perf_counter()
    config.check()
    classifier = config.make_classifier()
    devices.join_processes(config)
    mesh = devices.make_mesh(config.mesh, config.batch_size)
    data = mnist.load(config.data_dir)
    config = config.resolved(len(data.train.labels))
    assert config.steps is not None
    assert config.learning_rate is not None
    validate_every = max(1, min(config.steps // 10, len(data.train.labels) // config.batch_size))
    described = {**dataclasses.asdict(config), "network": repr(classifier.layers)}
    with open_workdir(f"mnist-{config.cell}", config, described) as workdir:
        console.print(
            f"workdir: {workdir.path}\n{classifier.layers}\n{config.steps} steps of {config.batch_size} images on "
            f"{mesh.size} x {jax.devices()[0].device_kind}",
            highlight=False,
        )
        rows = devices.local_rows(config.batch_size)
        params = launch(
            classifier,
            mnist.batches(data.train, config.batch_size, config.seed, config.shift, rows),
            lambda params: evaluate(classifier, params, data.validation).metrics(),
            options=config,
            workdir=workdir,
            mesh=mesh,
            console=console,
            steps=config.steps,
            learning_rate=config.learning_rate,
            validate_every=validate_every,
        )
        test = evaluate(classifier, params, data.test)
        results = {
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "steps": config.steps,
            "seconds": round(time.perf_counter() - start, 2),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        }
        if devices.is_first_process():
            draw(workdir, config, classifier, params, data.test, test)
            show(console, table(results, len(data.test.labels), workdir))
        workdir.write_results(results)
    return results


def score(config: Config, params: Any, split: str) -> dict[str, float]:
    """The loss and the accuracy of a trained network on a split of the data."""
    return evaluate(
        config.make_classifier(), params, getattr(mnist.load(config.data_dir, prepare=False), split)
    ).metrics()


def draw(
    workdir: Workdir, config: Config, classifier: Classifier, params: Any, split: mnist.Split, evaluation: Evaluation
) -> None:
    """Draws the pictures of the run."""
    title = f"MNIST, {config.read}: {config.cell}"
    predictions = np.argmax(evaluation.probabilities, axis=-1)
    pictures.curves(workdir.path / "curves.png", title, workdir.metrics)
    pictures.confusion(workdir.path / "confusion.png", title, split.labels, predictions, CLASSES)
    pictures.mistakes(workdir.path / "mistakes.png", title, split.images, split.labels, evaluation.probabilities)
    draw_gates(workdir, config, classifier, params, split)


def draw_gates(workdir: Workdir, config: Config, classifier: Classifier, params: Any, split: mnist.Split) -> None:
    """Draws what the first layer's cell, the forward one, does while it reads the first test image."""
    cell, own = config.make_cell(), params["layers"]["layer_0"]
    own = own["forward"] if config.bidirectional else own
    sequence = READINGS[config.read](jnp.asarray(mnist.to_float(split.images[:1])))[0]
    steps = {name: np.asarray(values) for name, values in reading.read(cell, own, sequence).items()}
    kind = config.read.split("-")[-1].rstrip("s")
    if "hidden" in steps:
        title = f"{cell}: what happens while it reads a {split.labels[0]}"
        gates.gates(workdir.path / "gates.png", title, np.asarray(sequence), steps, kind)


def table(results: dict[str, Any], images: int, workdir: Workdir) -> dict[str, str]:
    """The results as a reader wants them."""
    return {
        "test accuracy": f"{results['test_accuracy']:.2%} of {images:,} images",
        "test loss": f"{results['test_loss']:.4f}",
        "steps": f"{results['steps']:,}",
        "time": f"{results['seconds']:.0f} s",
        "parameters": f"{results['parameters']:,}",
        "workdir": str(workdir.path),
    }


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Config, prog="python -m train.mnist", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
