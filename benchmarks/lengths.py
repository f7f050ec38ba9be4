"""Time and memory of a training step by sequence length and strategy: `python -m benchmarks.lengths`.

The loss is one of the last state, as in classification. Times are medians, the strategies taking turns. The memory is
the highest that the process had in its first two training steps, above what it had before; a process for each figure.
"""

import dataclasses
import itertools
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import rich
import tyro
from rich.progress import track
from rich.table import Table

import flaxrnn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STRATEGIES = ("plain", "fused", "checkpointed")


@dataclasses.dataclass
class Options:
    """Which sequences.

    Attributes:
      cell: the cell, by name.
      lengths: how many steps.
      batch: how many sequences.
      input_size: their features.
      hidden_size: the features of the state.
      turns: how often each is timed.
      out: where lengths.json and lengths.png go.
    """

    cell: str = "lstm"
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192)
    batch: int = 16
    input_size: int = 32
    hidden_size: int = 128
    turns: int = 15
    out: Path = Path("runs/benchmarks")


def main(options: Options) -> None:
    """Measures, prints the table and writes it."""
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
    report = {"options": dataclasses.asdict(options) | {"out": str(options.out)}, "results": results}
    (options.out / "lengths.json").write_text(json.dumps(report, indent=1) + "\n")
    _picture(results, options.out / "lengths.png")
    rich.print(_table(results))
    rich.print(f"written: {options.out}/lengths.json, lengths.png")


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


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table("length", *(f"{strategy}, {unit}" for strategy in STRATEGIES for unit in ("µs a step", "MB")))
    for length, group in itertools.groupby(results, key=lambda result: result["length"]):
        figures = ((r["milliseconds"] / length * 1000, r["megabytes"]) for r in group)
        table.add_row(str(length), *(f"{figure:.0f}" for pair in figures for figure in pair))
    return table


def _picture(results: list[dict[str, Any]], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for strategy in STRATEGIES:
        mine = [result for result in results if result["strategy"] == strategy]
        lengths = [result["length"] for result in mine]
        left.plot(lengths, [r["milliseconds"] / r["length"] * 1000 for r in mine], marker="o", label=strategy)
        right.plot(lengths, [r["megabytes"] for r in mine], marker="o", label=strategy)
    left.set(xscale="log", xlabel="steps in a sequence", ylabel="µs a step (training)", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="steps in a sequence", ylabel="peak memory, MB")
    left.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
