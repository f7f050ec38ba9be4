"""Does training wait for its input? Compares the MNIST pipeline with one batch held in memory.

    python -m benchmarks.input_pipeline --cell=gru

Both run the same steps of the same network, and take turns, so that other load on the machine affects both.
"""

import dataclasses
import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import tyro

from train import devices, loop
from train.data import mnist
from train.mnist import Config as TrainingConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Steps per second with the MNIST pipeline, and on one batch held in memory."""

    cell: str = "gru"
    """Name of the cell, as in train.mnist; other options have their defaults there."""
    rounds: int = 15
    """Rounds; the figure is the median over them."""
    steps: int = 100
    """Training steps per round."""
    data_dir: pathlib.Path | None = None
    """Folder in which tensorflow-datasets keeps the prepared images."""


def main() -> None:
    """The program."""
    config = tyro.cli(Config, prog="python -m benchmarks.input_pipeline")
    training = TrainingConfig(cell=config.cell)
    classifier = training.make_classifier()
    data = mnist.load(config.data_dir)
    pipeline = iter(mnist.batches(data.train, training.batch_size, training.seed, training.shift))
    one_batch = itertools.repeat(next(pipeline))

    optimizer, _ = loop.make_optimizer(training.peak_learning_rate(config.steps), config.steps)
    mesh = devices.make_mesh(None, training.batch_size)
    state, shardings = loop.begin(classifier, optimizer, training.seed, mesh)
    step = loop.make_step(classifier, optimizer, shardings)
    key = jax.random.key(1)

    def seconds(batches: Iterator[mnist.Batch], state: Any) -> tuple[float, Any]:
        start = time.perf_counter()
        for number, batch in enumerate(itertools.islice(batches, config.steps)):
            state, _ = step(state, devices.to_devices(mesh, batch), key, number)
        jax.block_until_ready(state)
        return time.perf_counter() - start, state

    times: dict[str, list[float]] = {"pipeline": [], "one batch": []}
    _, state = seconds(pipeline, state)
    for name, batches in [("pipeline", pipeline), ("one batch", one_batch)] * config.rounds:
        elapsed, state = seconds(batches, state)
        times[name].append(elapsed)
    speeds = {name: config.steps / statistics.median(values) for name, values in times.items()}
    for name, speed in speeds.items():
        print(f"{name:10} {speed:7.1f} steps/s")
    print(f"ratio      {speeds['pipeline'] / speeds['one batch']:7.3f}  (goal: at least 0.95)")


if __name__ == "__main__":
    main()
