"""Scores a finished run: `python -m train.evaluate runs/mnist-gru-DATE`."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from train import runs
from train.errors import UserError, told_to_the_user
from train.options import default, flag
from train.programs import PROGRAMS
from train.report import show


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a finished run of train.mnist, train.memory or train.charlm."""

    workdir: tyro.conf.Positional[pathlib.Path]
    """Where the run left its results."""
    split: Literal["train", "validation", "test"] = "test"
    """Which part of the data to score it on."""
    data_dir: Annotated[pathlib.Path | None, default("train.mnist; default: the run's own")] = None
    """Where tensorflow-datasets keeps the prepared images."""


def run(options: Options, console: Console) -> dict[str, float]:
    """Evaluates as `options` say; returns the metrics."""
    name = runs.program(options.workdir)
    if name not in PROGRAMS:
        raise UserError(
            f"{options.workdir / 'config.json'} is of train.{name}, and there are only train."
            f"{', train.'.join(PROGRAMS)}: bring its program back, or pass another folder"
        )
    config: Any
    config, params = runs.load(PROGRAMS[name].config, options.workdir)
    if options.data_dir is not None:
        if name != "mnist":
            raise UserError(f"--data-dir is for runs of train.mnist, and this one is of train.{name}: leave it out")
        config = dataclasses.replace(config, data_dir=options.data_dir)
    known = runs.numbers(options.workdir)
    for what, found in PROGRAMS[name].source(config).items():
        if known.get(what) != found:
            raise UserError(
                f"the run in {options.workdir} is of {flag(what)}={known.get(what)}, but that is now {found}: bring "
                "back what it was"
            )
    metrics = PROGRAMS[name].score(config, params, options.split)
    shown = {key: f"{value:.2%}" if key == "accuracy" else f"{value:.4g}" for key, value in metrics.items()}
    show(console, {f"{options.split} {key}": value for key, value in shown.items()})
    return metrics


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Options, prog="python -m train.evaluate", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
