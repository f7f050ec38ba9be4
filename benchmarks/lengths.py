"""Time and memory of a training step by sequence length and strategy: `python -m benchmarks.lengths`.

The loss depends on the final state alone, as in classification. Times are medians over rounds in which the strategies
take turns. Memory is the peak over the first two training steps, less what the process used before them; each figure
has a process of its own.
"""

import dataclasses
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import rich
import tyro
from rich.progress import track

import flaxrnn
from benchmarks import figures, lengths_report, machine
from benchmarks.lengths_report import STRATEGIES


@dataclasses.dataclass
class Options:
    """The sequences to measure.

    Attributes:
      cell: name of the cell.
      lengths: sequence lengths, in time steps.
      batch: batch size.
      input_size: features of the inputs.
      hidden_size: features of the hidden state.
      turns: rounds; each figure is the median over them.
      out: output folder, for lengths.json, lengths.md and lengths.png.
    """

    cell: str = "lstm"
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192)
    batch: int = 16
    input_size: int = 32
    hidden_size: int = 128
    turns: int = 15
    out: Path = Path("runs/benchmarks")


def main(options: Options) -> None:
    """Measures, prints the table, and writes the report."""
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for length, strategy in track(list(itertools.product(options.lengths, STRATEGIES)), description="memory"):
            megabytes = pool.apply(_megabytes, (options, strategy, length))
            results.append({"length": length, "strategy": strategy, "megabytes": megabytes})
    for length in track(options.lengths, description="time"):
        times = _milliseconds(options, length)
        for result in results:
            if result["length"] == length:
                result["milliseconds"] = times[result["strategy"]]
    settings = dataclasses.asdict(options)
    del settings["out"]
    report = {"machine": machine.describe(), "options": settings, "results": results}
    (options.out / "lengths.json").write_text(figures.dumps(report))
    (options.out / "lengths.md").write_text(lengths_report.markdown(report))
    lengths_report.picture(report, options.out / "lengths.png")
    rich.print(lengths_report.markdown(report))
    rich.print(f"written: {options.out}/lengths.json, lengths.md, lengths.png")


def _training_step(options: Options, strategy: str, length: int) -> Callable[[], Any]:
    cell = flaxrnn.cells.make(options.cell, hidden_size=options.hidden_size)
    params = cell.init(jax.random.key(0), options.input_size)
    inputs = jax.random.normal(jax.random.key(1), [options.batch, length, options.input_size])

    @jax.jit
    @jax.value_and_grad
    def step(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, strategy=strategy)[0].hidden))

    jax.block_until_ready(step.lower(params, inputs).compile())
    return lambda: jax.block_until_ready(step(params, inputs))


def _megabytes(options: Options, strategy: str, length: int) -> float:
    step = _training_step(options, strategy, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(), step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _milliseconds(options: Options, length: int) -> dict[str, float]:
    steps = {strategy: _training_step(options, strategy, length) for strategy in STRATEGIES}
    times: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    for turn, (strategy, step) in itertools.product(range(options.turns + 1), steps.items()):
        start = time.perf_counter()
        step()
        if turn:
            times[strategy].append((time.perf_counter() - start) * 1000)
    return {strategy: statistics.median(figures) for strategy, figures in times.items()}


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.lengths"))
