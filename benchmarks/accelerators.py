"""Compilers' estimates for training steps on TPU and GPU, without either: `python -m benchmarks.accelerators`.

For each shape and cell, for each strategy and Flax's best module: the kernels launched on an H100, the cycles expected
on a TPU v5e, and the peak memory. These are compilers' figures (libtpu, and XLA for CUDA), the same on any machine;
nothing has run. It needs `pip install '.[accelerators]'`, and takes a quarter of an hour on two CPU cores.

libtpu gives no cycles for Pallas kernels. Their instruction bundles are counted instead, from the compiler's dump, each
as often as its loops repeat it; waiting for memory is not included.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import dataclasses
import itertools
import multiprocessing
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich
import tyro
from rich.progress import track

import flaxrnn
from benchmarks import accelerators_report, compilers, figures
from benchmarks.flax_cells import FLAX_CELLS
from benchmarks.shapes import SHAPES, STEP
from flaxrnn._explain import sequence_of
from flaxrnn.layers import LayerCell
from flaxrnn.strategies.auto import choose

CASES = SHAPES | STEP
TPU, GPU = "v5e", "h100"
TO = {TPU: ("plain", "fused", "pallas", "flax"), GPU: ("plain", "fused", "flax")}


@dataclasses.dataclass
class Options:
    """What to compile.

    Attributes:
      shapes: names of shapes.
      cells: names of cells.
      targets: "v5e", "h100" or both.
      processes: how many compile at once.
      out: output folder, for accelerators.json, accelerators.md and accelerators.png.
    """

    shapes: tuple[str, ...] = tuple(CASES)
    cells: tuple[str, ...] = tuple(FLAX_CELLS)
    targets: tuple[str, ...] = (TPU, GPU)
    processes: int = 2
    out: Path = Path("runs/benchmarks")


@dataclasses.dataclass(frozen=True)
class Job:
    """A training step to compile; `by` is a strategy or "flax"."""

    target: str
    shape: str
    cell: str
    by: str


def main(options: Options) -> None:
    """Compiles, prints the table, and writes the report."""
    if missing := compilers.missing():
        raise SystemExit(missing)
    options.out.mkdir(parents=True, exist_ok=True)
    cases = itertools.product(options.targets, options.shapes, options.cells)
    jobs = [Job(*case, by) for case in cases for by in TO[case[0]]]
    spawn = multiprocessing.get_context("spawn")
    results = []
    for dumps in (False, True):  # where kernels' schedules are dumped, compiling takes three times as long
        mine = [job for job in jobs if (job.by == "pallas") == dumps]
        pool = spawn.Pool(options.processes, _begin, (dumps,))
        found = list(track(pool.imap(figures_of, mine), description="compiling", total=len(mine)))
        pool.close()
        results += [dataclasses.asdict(job) | one for job, one in zip(mine, found, strict=True)]
    auto = {
        target: {f"{shape}, {cell}": _choice(target, shape, cell) for shape in options.shapes for cell in options.cells}
        for target in options.targets
    }
    packages = ("jax", "libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "flax")
    versions = {name: metadata.version(name) for name in packages}
    report = {"versions": versions, "auto": auto, "results": results}
    (options.out / "accelerators.json").write_text(figures.dumps(report))
    (options.out / "accelerators.md").write_text(accelerators_report.markdown(report))
    accelerators_report.picture(report, options.out / "accelerators.png")
    rich.print(accelerators_report.markdown(report))
    rich.print(f"written: {options.out}/accelerators.json, accelerators.md, accelerators.png")


def _begin(dumps: bool) -> None:
    """In a new process, before libtpu is loaded: makes it dump kernels' schedules if `dumps`."""
    if dumps:
        global _dumped
        _dumped = Path(tempfile.mkdtemp(prefix="flaxrnn-schedules-"))
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={_dumped} --xla_jf_dump_llo_text=true"


_dumped: Path | None = None


def figures_of(job: Job) -> dict[str, int]:
    """Cycles (TPU) or launches (GPU) of a training step, and its peak memory in bytes; for Flax, its best module's."""
    batch, time, inputs, hidden = CASES[job.shape]
    like = jax.ShapeDtypeStruct((batch, time, inputs), jnp.float32)
    found = []
    for loss, params in _losses(job, like, hidden):
        gradient = jax.value_and_grad(loss)
        compiled = compilers.compile_for(job.target, gradient, params, like)
        measure = compilers.kernels_launched if job.target == GPU else compilers.expected_cycles
        figure = measure(compiled)
        if job.by == "pallas":
            assert _dumped is not None
            figure += _bundles(_dumped, compiled.as_text(), _grids(job.target, gradient, params, like), time)
            shutil.rmtree(_dumped)
            _dumped.mkdir()
        found.append({"figure": figure, "bytes": compilers.peak_bytes(compiled)})
    return min(found, key=lambda one: one["figure"])


def _losses(job: Job, like: jax.ShapeDtypeStruct, hidden: int) -> list[tuple[Callable, Any]]:
    """The loss of a training step and the shapes of its parameters; several where Flax has several modules."""
    if job.by != "flax":
        cell = flaxrnn.cells.make(job.cell, hidden_size=hidden)
        params = jax.eval_shape(lambda key: cell.init(key, like.shape[-1]), jax.random.key(0))
        return [(lambda params, inputs: _loss(flaxrnn.scan(cell, params, inputs, strategy=job.by)[1]), params)]
    modules = [nn.RNN(peer(hidden)) for peer in FLAX_CELLS[job.cell]]
    return [
        (
            lambda params, inputs, module=module: _loss(module.apply(params, inputs)),
            jax.eval_shape(module.init, jax.random.key(0), like),
        )
        for module in modules
    ]


def _loss(outputs: jax.Array) -> jax.Array:
    return jnp.sum(outputs**2)


def _choice(target: str, shape: str, cell: str) -> str:
    """What "auto" chooses there."""
    batch, time, inputs, hidden = CASES[shape]
    made = flaxrnn.cells.make(cell, hidden_size=hidden)
    sequence = sequence_of(LayerCell(made, inputs), jax.ShapeDtypeStruct((batch, time, inputs), jnp.float32))
    return choose("auto", sequence, compilers.backend_of(target)).strategy.name


def _grids(target: str, function: Callable, *shapes: Any) -> list[int]:
    """How many iterations each kernel's grid has, in the order in which the kernels run."""
    with compilers.tracing_for(target):
        text = str(jax.make_jaxpr(function)(*shapes))
    return [int(rows) * int(turns) for rows, turns in re.findall(r"grid=\((\d+), (\d+)\)", text)]


def _bundles(folder: Path, program: str, grids: list[int], time: int) -> int:
    """How many instruction bundles the kernels of a program issue, by libtpu's dump of their schedules.

    A line of the dump is a bundle; ">" marks those in the loop over the grid, ">>" those in the inner loop over steps.
    """
    names = re.findall(r'%([\w.\-]+) = [^\n]*custom_call_target="tpu_custom_call"', program)
    assert len(names) == len(grids), f"the kernels {names} do not match the grids {grids}"
    total = 0
    for name, turns in zip(sorted(names, key=lambda name: "transpose" in name), grids, strict=True):
        [path] = folder.glob(f"*[0-9]-{name}-*-final_bundles.txt")
        bundles = re.findall(r"^ *0x[0-9a-f]+ +(?:\w\w)?:? *:? *(>*) *\{", path.read_text(), flags=re.MULTILINE)
        repeated = (1, turns, max(time, turns))
        total += sum(repeated[min(len(depth), 2)] for depth in bundles)
    return total


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.accelerators"))
