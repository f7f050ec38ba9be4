"""Scores a finished run: `python -m train.evaluate runs/mnist-gru-DATE`."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from train import runs
from train.data import mnist
from train.errors import told_to_the_user
from train.evaluation import evaluate
from train.mnist import Config
from train.options import default
from train.report import show


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a finished run of train.mnist."""

    workdir: tyro.conf.Positional[pathlib.Path]
    """Where the run left its results."""
    split: Literal["train", "validation", "test"] = "test"
    """Which images to score it on."""
    data_dir: Annotated[pathlib.Path | None, default("default: the run's own")] = None
    """Where tensorflow-datasets keeps the prepared images."""


def run(options: Options, console: Console) -> dict[str, Any]:
    """Evaluates as `options` says; returns accuracy and loss."""
    config, params = runs.load(Config, options.workdir)
    split = getattr(mnist.load(options.data_dir or config.data_dir), options.split)
    result = evaluate(config.make_classifier(), params, split)
    rows = {
        "accuracy": f"{result.accuracy:.2%} of {len(split.labels):,} {options.split} images",
        "loss": f"{result.loss:.4f}",
    }
    show(console, rows)
    return result.metrics()


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Options, prog="python -m train.evaluate", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
