"""Trains several networks, each from several seeds: `python -m train.compare --cells=elman,lstm,gru --seeds=3`.

A network is a cell, with options of its own behind plus signs: `lstm+peephole`, `gru+no-reset-after`,
`lstm+bidirectional+hidden-size=64`. Options that this program does not have are given to every run. It leaves one table
and one picture of them all.
"""

import dataclasses
import pathlib
import re
import statistics
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from rich.console import Console
from rich.markdown import Markdown

from train import devices
from train.errors import UserError, told_to_the_user
from train.network import NetworkOptions
from train.options import check_positive, default, flag
from train.pictures.comparison import Curve, comparison
from train.programs import PROGRAMS, Program
from train.workdir import Workdir, default_path, is_finished, read_metrics, read_results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Train several networks, each from several seeds, and compare them.

    Every option that is not one of these is given to all runs, such as --steps=782.
    """

    cells: str = "elman,lstm,gru"
    """The networks: cells, with options of their own behind plus signs, such as elman,lstm,lstm+peephole."""
    seeds: int = 3
    """How often to train each: from the seeds 0, 1, 2, ..."""
    program: Literal["mnist", "memory", "charlm"] = "mnist"
    """What trains them."""
    workdir: Annotated[pathlib.Path | None, default("default: runs/compare-PROGRAM-DATE")] = None
    """Where the runs, the table and the picture are left. A comparison that was broken off in there is gone on with."""


class Run(NamedTuple):
    """One training of a network: what its `results.json` and the lines of its `metrics.jsonl` hold."""

    results: dict[str, Any]
    metrics: list[dict[str, Any]]


def run(options: Options, arguments: list[str], console: Console) -> dict[str, list[Run]]:
    """Trains and compares as `options` say, every run with `arguments`; returns the runs of each network."""
    check_positive(options, "seeds")
    program = PROGRAMS[options.program]
    networks = parse(options, arguments)
    described = dataclasses.asdict(options)
    numbers = next(iter(networks.values())).numbers() | {
        name: described[name] for name in ("program", "cells", "seeds")
    }
    del numbers["cell"], numbers["seed"]
    path = options.workdir or default_path(f"compare-{options.program}")
    with Workdir(path, numbers, described) as workdir:
        console.print(f"workdir: {path}", highlight=False)
        runs: dict[str, list[Run]] = {name: [] for name in networks}
        for seed in range(options.seeds):
            for name, config in networks.items():
                console.rule(f"{name}, seed {seed}")
                own = dataclasses.replace(config, seed=seed, workdir=path / name.replace("/", "_") / f"seed-{seed}")
                runs[name].append(train(program, own, name, console))
        summary = table(runs, program.measure)
        (path / "table.md").write_text(summary)
        seeds = "one seed" if options.seeds == 1 else f"the median and the range of {options.seeds} seeds"
        title = f"{' '.join([f'train.{options.program}', *arguments])}: {seeds}"
        drawn = curves(runs, program.measure)
        comparison(path / "comparison.png", title, program.measure, drawn, baseline(runs, program))
        console.rule()
        console.print(Markdown(summary))
        workdir.write_results({name: [run.results for run in each] for name, each in runs.items()})
    return runs


def parse(options: Options, arguments: list[str]) -> dict[str, NetworkOptions]:
    """The networks that `--cells` names, with `arguments` for all of them.

    Raises:
      UserError: if they cannot be trained.
    """
    networks: dict[str, Any] = {}
    for name in options.cells.split(","):
        cell, *own = re.split(r"\+(?![0-9])", name)
        if not all([cell, *own]):
            raise UserError(
                f"--cells={options.cells}: pass cells with commas between them, such as elman,lstm+peephole"
            )
        config = tyro.cli(
            PROGRAMS[options.program].config,
            prog=f"python -m train.{options.program}",
            args=[f"--cell={cell}", *arguments, *(f"--{option}" for option in own)],
            config=(tyro.conf.DisallowNone,),
        )
        for field in ("seed", "workdir", "resume", "distributed"):
            if getattr(config, field):
                raise UserError(f"{flag(field)} does not go with a comparison, which has runs of its own: leave it out")
        if config.cell != cell:
            raise UserError(f"--cell={config.cell} does not go with a comparison: pass --cells=...,{config.cell}")
        config.check()
        config.make_cell()
        devices.make_mesh(config.mesh, config.batch_size)
        for other in networks:
            if networks[other] == config:
                raise UserError(f"--cells={options.cells}: {other} and {name} are the same network: leave one out")
        networks[name] = config
    return networks


def train(program: Program, config: NetworkOptions, name: str, console: Console) -> Run:
    """Does one run, or reads it where it is finished."""
    assert config.workdir is not None
    if not is_finished(config.workdir):
        try:
            program.run(config, console)
        except UserError as error:
            raise UserError(f"{name}, seed {config.seed}: {error}") from error
    return Run(read_results(config.workdir), read_metrics(config.workdir))


def table(runs: dict[str, list[Run]], measure: str) -> str:
    """The results of all networks, in Markdown."""
    shown = "{:.2%}".format if measure == "accuracy" else "{:.4g}".format
    lines = [f"| network | test {measure}, median | lowest to highest |", "|---|---|---|"]
    for name, each in runs.items():
        values = [run.results[f"test_{measure}"] for run in each]
        median, lowest, highest = (shown(pick(values)) for pick in (statistics.median, min, max))
        lines.append(f"| `{name}` | {median} | {lowest} to {highest} |")
    return "\n".join(lines) + "\n"


def curves(runs: dict[str, list[Run]], measure: str) -> list[Curve]:
    """What is drawn of each network."""
    drawn = []
    for name, each in runs.items():
        lines = [[line for line in run.metrics if line["split"] == "validation"] for run in each]
        validation = [[line[measure] for line in one] for one in lines]
        steps = [line["step"] for line in lines[0]]
        drawn.append(Curve(name, steps, validation, [run.results[f"test_{measure}"] for run in each]))
    return drawn


def baseline(runs: dict[str, list[Run]], program: Program) -> tuple[str, float] | None:
    """The name of the simpler model and what it attains, if that is the same for all runs."""
    if program.baseline is None:
        return None
    key, name = program.baseline
    values = {run.results[key] for each in runs.values() for run in each}
    return (name, values.pop()) if len(values) == 1 else None


def main() -> None:
    """The program."""
    with told_to_the_user():
        options, arguments = tyro.cli(
            Options, prog="python -m train.compare", return_unknown_args=True, config=(tyro.conf.DisallowNone,)
        )
        run(options, arguments, Console())


if __name__ == "__main__":
    main()
