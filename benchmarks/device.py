"""Every strategy on the GPU or TPU at hand, checked and timed: `python -m benchmarks.device`, eight minutes.

Each strategy's outputs, final state and gradients are compared with those of `plain`, with matrix products at full
float32 precision. Then training steps are timed, at the default precision, beside Flax's modules and, on NVIDIA GPUs,
cuDNN's LSTM. Writes a table and a JSON report, which list the cases left out for lack of time.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich
import tyro
from jax.experimental import rnn

import flaxrnn
from benchmarks import figures, machine
from benchmarks.flax_cells import FLAX_CELLS
from benchmarks.shapes import SHAPES, STEP
from flaxrnn._explain import sequence_of
from flaxrnn.layers import LayerCell
from flaxrnn.strategies.auto import choose

CASES = {name: SHAPES[name] for name in ("text", "rows", "wide", "one", "pixels")} | STEP
"""The most telling first, since time may run out."""
SMALL = {"text": (4, 8, 5, 8), "step": (2, 1, 5, 8)}
TOLERANCE = 1e-3
"""The largest accepted difference from `plain`, relative to the largest number of an array."""


@dataclasses.dataclass
class Options:
    """What to run.

    Attributes:
      minutes: no new case begins after this time.
      turns: rounds; each time is the median over them.
      cells: names of cells.
      small: tiny shapes, to try the program on a CPU.
      out: output folder, for device.json and device.md.
    """

    minutes: float = 7.0
    turns: int = 15
    cells: tuple[str, ...] = tuple(FLAX_CELLS)
    small: bool = False
    out: Path = Path("runs/benchmarks")


def main(options: Options) -> None:
    """Checks, times, prints the table, and writes the report."""
    options.out.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    rich.print(f"{device.device_kind} ({device.platform}), {jax.device_count()} of them; one is used")
    shapes, deadline = SMALL if options.small else CASES, time.monotonic() + 60 * options.minutes
    results, left_out = [], []
    for shape, cell in itertools.product(shapes, options.cells):
        if time.monotonic() > deadline:
            left_out.append(f"{shape}, {cell}")
            continue
        result = {"shape": shape, "cell": cell, **compare(cell, shapes[shape], options.turns)}
        results.append(result)
        rich.print(_row(result).replace("[", r"\["))
    here = machine.describe("jaxlib", "flax")
    report = {"device": device.device_kind, "machine": here, "results": results, "left_out": left_out}
    (options.out / "device.json").write_text(figures.dumps(report))
    (options.out / "device.md").write_text(markdown(report))
    rich.print(markdown(report).replace("[", r"\["))
    rich.print(f"written: {options.out}/device.json, device.md")
    wrong = [
        f"{r['shape']}, {r['cell']}, {name}"
        for r in results
        for name, d in r["difference"].items()
        if not d < TOLERANCE
    ]
    if wrong:
        raise SystemExit(f"these differ from plain by more than {TOLERANCE}: {'; '.join(wrong)}")


def compare(name: str, shape: tuple[int, int, int, int], turns: int) -> dict[str, Any]:
    """One shape and cell: what "auto" takes, differences from `plain`, milliseconds, and what could not run."""
    batch, steps, inputs_size, hidden = shape
    cell = flaxrnn.cells.make(name, hidden_size=hidden)
    params = cell.init(jax.random.key(0), inputs_size)
    inputs = jax.random.normal(jax.random.key(1), (batch, steps, inputs_size))
    sequence = sequence_of(LayerCell(cell, inputs_size), inputs)
    cannot = {other: reason for other, one in flaxrnn.STRATEGIES.items() if (reason := one.why_not(sequence))}
    able = {other: _step(cell, other) for other in flaxrnn.STRATEGIES if other not in cannot}
    difference: dict[str, float] = {}
    runs: dict[str, Callable[[], Any]] = {}
    with jax.default_matmul_precision("float32"):
        expected = able["plain"](params, inputs)
        for other, step in list(able.items()):
            try:
                difference[other] = _difference(step(params, inputs), expected)
            except Exception as error:  # a compiler's: the other strategies still run
                cannot[other] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
                del able[other]
    runs |= {other: _bind(_step(cell, other), params, inputs) for other in able}
    runs |= dict(_peers(name, shape, inputs))
    milliseconds = _times(runs, turns)
    auto = choose("auto", sequence).strategy.name
    return {"auto": auto, "difference": difference, "milliseconds": milliseconds, "cannot": cannot}


def _step(cell: Any, strategy: str) -> Callable[..., Any]:
    """A training step: the state and the outputs, and gradients by parameters and inputs."""

    def loss(params: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
        state, outputs = flaxrnn.scan(cell, params, inputs, strategy=strategy)
        return jnp.sum(jnp.sin(outputs)), (state, outputs)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def _peers(name: str, shape: tuple[int, int, int, int], inputs: jax.Array) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The same step by Flax's modules, and by cuDNN where there is one."""
    batch, _, inputs_size, hidden = shape
    for peer in FLAX_CELLS[name]:
        module = nn.RNN(peer(hidden))
        params = jax.jit(module.init)(jax.random.key(0), inputs)

        def loss(params: Any, inputs: jax.Array, module: Any = module) -> jax.Array:
            return jnp.sum(jnp.sin(module.apply(params, inputs)))

        yield f"flax {peer.__name__}", _bind(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), params, inputs)
    if name == "lstm" and jax.default_backend() == "gpu" and "nvidia" in jax.devices()[0].device_kind.lower():
        weights = rnn.init_lstm_weight(jax.random.key(0), inputs_size, hidden, 1, False)
        lengths, zeros = jnp.full(batch, inputs.shape[1], jnp.int32), jnp.zeros((1, batch, hidden))

        def cudnn_loss(weights: jax.Array, inputs: jax.Array) -> jax.Array:
            outputs, _, _ = rnn.lstm(inputs, zeros, zeros, weights, lengths, inputs_size, hidden, 1, 0.0, False)
            return jnp.sum(jnp.sin(outputs))

        yield "cudnn", _bind(jax.jit(jax.value_and_grad(cudnn_loss, argnums=(0, 1))), weights, inputs)


def _bind(step: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(step(*arguments))


def _difference(found: Any, expected: Any) -> float:
    """The largest difference of any number, relative to the largest of its array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / (jnp.max(jnp.abs(b)) + 1e-30)) for a, b in pairs)


def _times(runs: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median milliseconds of each; they take turns, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(turns + 2), runs.items()):
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[2:]) * 1000 for name, each in seconds.items()}


def markdown(report: dict[str, Any]) -> str:
    """The device, then a row for each shape and cell, then what was left out."""
    here = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    lines = [
        f"{report['device']}; Python {here['python']}, {versions}. Milliseconds of a training step, median; what "
        "`auto` takes in bold; in brackets the largest difference from `plain`.",
        "",
        *(_row(result) for result in report["results"]),
        *(f"- {case}: left out for lack of time" for case in report["left_out"]),
    ]
    return "\n".join(lines) + "\n"


def _row(result: dict[str, Any]) -> str:
    """Such as "- text, lstm: **fused 1.20** (1e-07), plain 2.30 (0e+00), flax LSTMCell 3.10"."""
    parts = []
    for name, milliseconds in result["milliseconds"].items():
        text = f"{name} {milliseconds:.3g}"
        text = f"**{text}**" if name == result["auto"] else text
        parts.append(f"{text} ({result['difference'][name]:.0e})" if name in result["difference"] else text)
    parts += [f"{name} cannot: {reason}" for name, reason in result["cannot"].items()]
    return f"- {result['shape']}, {result['cell']}: {'; '.join(parts)}"


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.device"))
