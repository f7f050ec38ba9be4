"""Tests what a recurrent network can remember: `python -m train.memory --task=adding --length=200 --cell=lstm`.

In the adding problem two numbers of a long sequence are marked, and their sum is asked at the end; in the copy problem
ten symbols are to be repeated many steps later. The curve that is drawn has the loss of a network that remembers
nothing.
"""

import dataclasses
import functools
import itertools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from rich.console import Console

import flaxrnn
from flaxrnn.layers import drop, split_key
from train import devices, readout
from train.data import memory
from train.errors import UserError, told_to_the_user
from train.launch import launch
from train.network import CellName, NetworkOptions
from train.options import check_positive
from train.pictures.memory import curve
from train.report import show
from train.workdir import open_workdir

SOLVED = 0.03
"""A task is solved with a loss below this share of the baseline."""
SCORED = 10
"""Batches of a validation and of the test."""
UNSEEN = {"validation": 2**32 - 2, "test": 2**32 - 1}
"""The seeds of the validation and the test sequences."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NetworkOptions):
    """Test what a recurrent network can remember."""

    cell: CellName = "lstm"
    """What happens in one time step."""
    task: Literal["adding", "copy"] = "adding"
    """What is to be remembered: two marked numbers, or ten symbols."""
    length: int = 200
    """Time steps of the sequence to add in, or between the symbols and their copy."""
    steps: int = 3000
    """How many training steps to do."""
    learning_rate: float = 3e-3
    """The highest learning rate; it goes up to it and then down, once."""

    def check(self) -> None:
        """Raises a `UserError` unless the numbers can be trained with."""
        super().check()
        check_positive(self, "length", "steps", "learning_rate")
        if self.task == "adding" and self.length < 2:
            raise UserError(f"--length={self.length}: pass two steps or more")

    def make_task(self, answers: int) -> "Memory":
        """As `make_network`: the task says how many answers there are."""
        return self.make_network()

    def make_network(self) -> "Memory":
        """The network that the options describe."""
        return Memory(self.make_layers(), self.task, self.strategy, self.precision)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Recurrent layers and a dense one, which answers after the last step (adding) or after each (copy).

    Attributes:
      layers: the recurrent layers.
      task: "adding" or "copy".
      strategy, precision: as in `train.classifier.Classifier`.
    """

    layers: flaxrnn.Stack
    task: str
    strategy: str = "auto"
    precision: str = "float32"

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draws the parameters."""
        inputs, answers = (2, 1) if self.task == "adding" else (memory.SYMBOLS + 2, memory.SYMBOLS + 1)
        return readout.init(self.layers, key, inputs, answers)

    def carry(self) -> tuple[()]:
        """Nothing goes from one batch to the next."""
        return ()

    def loss(
        self, params: dict[str, Any], carry: tuple[()], batch: memory.Batch, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[tuple[()], dict[str, jax.Array]]]:
        """The mean squared error (adding) or the mean cross entropy (copy)."""
        layers_key, dense_key = split_key(key)
        params, inputs = jax.tree.map(lambda leaf: leaf.astype(self.precision), (params, batch.inputs))
        _, outputs = self.layers.apply(params["layers"], inputs, key=layers_key, strategy=self.strategy)
        features = outputs[:, -1] if self.task == "adding" else outputs
        answers = readout.read_out(params, drop(dense_key, features, self.layers.dropout))
        if self.task == "adding":
            return jnp.mean((answers[:, 0] - batch.targets) ** 2), (carry, {})
        losses = optax.softmax_cross_entropy_with_integer_labels(answers, batch.targets)
        right = jnp.argmax(answers, axis=-1) == batch.targets
        return jnp.mean(losses), (carry, {"accuracy": jnp.mean(right[:, -memory.COPIED :])})


def score(config: Config, params: Any, split: str) -> dict[str, float]:
    """The means of loss and metrics of a trained network over the first batches of a split."""
    network, params = config.make_network(), jax.device_put(params)
    batches = _scored(config.task, config.batch_size, config.length, UNSEEN.get(split, config.seed))
    each = [_evaluate(network, params, batch) for batch in batches]
    return {name: float(sum(one[name] for one in each) / len(each)) for name in each[0]}


@functools.lru_cache(maxsize=1)  # each validation has the same ones
def _scored(task: str, batch_size: int, length: int, seed: int) -> list[memory.Batch]:
    return list(itertools.islice(memory.batches(task, batch_size, length, seed), SCORED))


@functools.partial(jax.jit, static_argnames="network")
def _evaluate(network: Memory, params: Any, batch: memory.Batch) -> dict[str, jax.Array]:
    loss, (_, metrics) = network.loss(params, (), batch, None)
    return {"loss": loss, **metrics}


def run(config: Config, console: Console) -> dict[str, Any]:
    """Trains and evaluates as `config` says; returns what `results.json` holds."""
    start = time.perf_counter()
    config.check()
    network = config.make_network()
    devices.join_processes(config)
    mesh = devices.make_mesh(config.mesh, config.batch_size)
    nothing = memory.baseline(config.task, config.length)
    with open_workdir(f"memory-{config.task}-{config.cell}", config, dataclasses.asdict(config)) as workdir:
        console.print(
            f"workdir: {workdir.path}\n{network.layers}\na network that remembers nothing has a loss of {nothing:.4f}",
            highlight=False,
        )
        params = launch(
            network,
            memory.batches(
                config.task, config.batch_size, config.length, config.seed, devices.local_rows(config.batch_size)
            ),
            lambda params: score(config, params, "validation"),
            options=config,
            workdir=workdir,
            mesh=mesh,
            console=console,
            steps=config.steps,
            learning_rate=config.learning_rate,
            validate_every=max(1, config.steps // 20),
        )
        result = score(config, params, "test")
        seconds = round(time.perf_counter() - start, 2)
        results = {f"test_{name}": value for name, value in result.items()}
        results |= {"baseline": nothing, "solved": result["loss"] < SOLVED * nothing, "seconds": seconds}
        if devices.is_first_process():
            title = f"{config.task}, {config.length} steps: {config.cell}"
            curve(workdir.path / "curve.png", title, workdir.metrics, nothing)
            solved = "solved" if results["solved"] else "not solved"
            rows = {"test loss": f"{result['loss']:.5f}, {solved}", "remembering nothing": f"{nothing:.5f}"}
            show(console, rows | {"time": f"{seconds:.0f} s", "workdir": str(workdir.path)})
        workdir.write_results(results)
    return results


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Config, prog="python -m train.memory", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
