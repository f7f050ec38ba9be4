"""The speed of flaxrnn beside that of other libraries: `python -m benchmarks.peers`, or `--quick` for two minutes.

Each library runs in a process of its own, so that its threads do not disturb the others, and only one computes at a
time. All get the same arrays, machine settings and allocator, and take turns: A B C A B C ... Each figure is a median.
"""

import dataclasses
import itertools
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import rich
import tyro
from rich.progress import track

from benchmarks import figures, libraries, machine, peers_report
from benchmarks.libraries import Case
from benchmarks.shapes import SHAPES

STEPS = {"step, batch 1": (1, 1, 64, 256), "step, batch 64": (64, 1, 64, 256)}


@dataclasses.dataclass
class Options:
    """What to compare.

    Attributes:
      quick: only the LSTM, two shapes and the single steps, in five rounds: two minutes.
      turns: rounds; each figure is the median over them.
      cells: the cells to compare.
      shapes: names of the shapes to compare.
      out: output folder, for peers.json, peers.md and peers.png.
    """

    quick: bool = False
    turns: int = 15
    cells: tuple[str, ...] = ("lstm", "gru", "elman")
    shapes: tuple[str, ...] = (*SHAPES, *STEPS)
    out: Path = Path("runs/benchmarks")


def main(options: Options) -> None:
    """Measures, prints the table, and writes the report."""
    unknown = [name for name in options.shapes if name not in SHAPES | STEPS]
    if unknown:
        raise SystemExit(f"unknown shape {unknown[0]!r}: pass any of {', '.join(SHAPES | STEPS)}")
    if options.quick:
        options = dataclasses.replace(options, turns=5, cells=("lstm",), shapes=("rows", "one", *STEPS))
    options.out.mkdir(parents=True, exist_ok=True)
    names = list(libraries.BUILDERS)
    workers = {name: Worker(name) for name in names}
    cases = list(_cases(options))
    here = machine.describe(*libraries.PACKAGES.values())
    report: dict[str, Any] = {"machine": here, "turns": options.turns, "results": []}
    for shape, case in track(cases, description="comparing"):
        milliseconds = _compare(workers, case, options.turns)
        report["results"].append({"shape": shape, **dataclasses.asdict(case), "milliseconds": milliseconds})
        _write(report, options.out)
    for worker in workers.values():
        worker.stop()
    rich.print(peers_report.markdown(report).replace("[", r"\["))
    rich.print(f"written: {options.out}/peers.json, peers.md, peers.png")


def _write(report: dict[str, Any], folder: Path) -> None:
    """Writes the report so far, so that an interrupted run keeps its results."""
    (folder / "peers.json").write_text(figures.dumps(report))
    (folder / "peers.md").write_text(peers_report.markdown(report))
    peers_report.picture(report, folder / "peers.png")


def _cases(options: Options) -> Any:
    for shape, cell in itertools.product(options.shapes, options.cells):
        for mode in ("forward", "train") if shape in SHAPES else ("step",):
            yield shape, Case(cell, mode, *(SHAPES | STEPS)[shape])


def _compare(workers: dict[str, "Worker"], case: Case, turns: int) -> dict[str, float]:
    """Median milliseconds of each library that has the cell; "floor" is scaled to the case's operations."""
    able = {name: worker for name, worker in workers.items() if worker.can(case)}
    repeats = 50 if case.mode == "step" else 1
    times: dict[str, list[float]] = {name: [] for name in able}
    for _, (name, worker) in itertools.product(range(turns), able.items()):
        times[name].append(worker.ask(repeats) / repeats * 1000)
    medians = {name: statistics.median(figures) for name, figures in times.items()}
    medians["floor"] *= case.operations / libraries.FLOOR_OPERATIONS
    return medians


class Worker:
    """A process that runs one library: send it a case to build, then how many times to run it."""

    def __init__(self, library: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(library, theirs), daemon=True)
        self._process.start()

    def can(self, case: Case) -> bool:
        """Whether the library can run the case; an error is printed, and the other libraries carry on."""
        try:
            return self.ask(case)
        except RuntimeError as error:
            rich.print(f"{case} is left out: {error}")
            return False

    def ask(self, question: Case | int) -> Any:
        """For a case, whether the library has it; for a number of runs, the seconds they took."""
        self._connection.send(question)
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _work(library: str, connection: Connection) -> None:
    run: Any = None
    while True:
        question = connection.recv()
        try:
            if isinstance(question, Case):
                run = libraries.build(library, question)
                for _ in range(2 if run else 0):
                    run()
                connection.send(run is not None)
            else:
                start = time.perf_counter()
                for _ in range(question):
                    run()
                connection.send(time.perf_counter() - start)
        except Exception as error:
            connection.send(RuntimeError(f"{library}: {type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.peers"))
