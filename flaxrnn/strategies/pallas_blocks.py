"""The blocks in which a kernel for TPU goes through time and batch, and what they take of the chip's memory."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flaxrnn.strategies.pallas_step import Layout
from flaxrnn.strategies.partitioned import SUMMED

ROWS, LANES = 8, 128
"""The tile of a TPU's registers: an array's last two axes take up multiples of it."""
STEPS = 8
"""At most so many time steps are done in one turn of the grid, which has a cost of its own."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when the program is traced.

    Attributes:
      layout: how the cell's arguments lie in arrays.
      reverse: whether to begin at the end.
      vmem_bytes: how much of the chip's memory a kernel may take.
      steps: at most how many time steps a block has.
      interpret: as `pallas_call` takes it.
      mesh_axes: the axes of the mesh over which the batch is divided.
    """

    layout: Layout
    reverse: bool
    vmem_bytes: int
    steps: int = STEPS
    interpret: Any = False
    mesh_axes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Where:
    """Which axes an array has, and so along which its blocks move."""

    time: bool
    batch: bool

    @property
    def batch_axis(self) -> int:
        """Which axis is the batch, as `along_batch` takes it."""
        return int(self.time) if self.batch else SUMMED


WHOLE, ROW, STEP = Where(False, False), Where(False, True), Where(True, True)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks that a kernel's grid goes through: `rows` of `batch` for each, and `steps` of `time` within."""

    time: int
    batch: int
    steps: int
    rows: int

    @property
    def grid(self) -> tuple[int, int]:
        return pl.cdiv(self.batch, self.rows), pl.cdiv(self.time, self.steps)

    def shape(self, leaf: Any, where: Where) -> tuple[int, ...]:
        """The shape of a block of an array."""
        moving = (*[self.steps] * where.time, *[self.rows] * where.batch)
        return (*moving, *leaf.shape[len(moving) :])

    def spec(self, leaf: Any, where: Where, backwards: bool) -> pl.BlockSpec:
        """The same, and which block is at hand in a turn of the grid."""
        last = self.grid[1] - 1

        def index(row: Any, turn: Any) -> tuple:
            moving = (*[last - turn if backwards else turn] * where.time, *[row] * where.batch)
            return (*moving, *[0] * (leaf.ndim - len(moving)))

        once = {} if where.batch else {"pipeline_mode": pl.Buffered(buffer_count=1)}
        return pl.BlockSpec(self.shape(leaf, where), index, **once)

    def bytes(self, leaf: Any, where: Where) -> int:
        """What an array takes of the chip's memory: what moves has two buffers."""
        *rest, rows, lanes = self.shape(leaf, where)
        size = math.prod(rest) * -(-rows // ROWS) * ROWS * -(-lanes // LANES) * LANES * leaf.dtype.itemsize
        return size * (2 if where.batch else 1)

    def each_step(self, step: Callable[[Any], None], backwards: bool) -> None:
        """Calls `step` with the number of each step within the block at hand."""
        turn = pl.program_id(1)
        block = self.grid[1] - 1 - turn if backwards else turn
        whole = self.time % self.steps == 0
        count = self.steps if whole else jnp.minimum(self.steps, self.time - block * self.steps)
        jax.lax.fori_loop(0, count, lambda at, _: step(count - 1 - at if backwards else at), None)


class TooLargeError(ValueError):
    """Not even the smallest blocks fit into the chip's memory."""


def blocks_of(plan: Plan, leaves: list[tuple[Any, Where]]) -> Blocks:
    """The largest blocks for which the chip has memory.

    Args:
      plan: says how much there is.
      leaves: all that the kernel reads and writes.

    Raises:
      TooLargeError: if there are none; the message says what they take.
    """
    time, batch = next(leaf.shape[:2] for leaf, where in leaves if where == STEP)
    needed = 0
    for rows in _sizes(batch):
        for steps in _halved(min(plan.steps, time)):
            blocks, one = Blocks(time, batch, steps, rows), Blocks(time, batch, 1, rows)
            temporary = 2 * sum(one.bytes(leaf, where) for leaf, where in leaves if where == STEP)
            needed = temporary + sum(blocks.bytes(leaf, where) for leaf, where in leaves)
            if needed <= plan.vmem_bytes:
                return blocks
    raise TooLargeError(
        f"its parameters and one step take {needed / 2**20:.1f} MiB of the chip's own memory, of "
        f"{plan.vmem_bytes / 2**20:.1f} MiB"
    )


def _halved(size: int) -> Iterable[int]:
    """`size`, and what is left of it when it is halved again and again."""
    while size:
        yield size
        size //= 2


def _sizes(batch: int) -> Iterable[int]:
    """Sizes of a block of the batch, largest first; less than all must be a multiple of a tile (bfloat16 has two)."""
    yield batch
    parts = 2
    while (rows := -(-batch // parts // (2 * ROWS)) * 2 * ROWS) < batch:
        yield rows
        if rows <= 2 * ROWS:
            return
        parts *= 2


def call(plan: Plan, kernel: Callable, backwards: bool, ins: tuple, in_wheres: tuple, results: tuple) -> Any:
    """Runs a kernel over blocks; a state, with fields as in `ins[0].state`, is kept on the chip.

    Args:
      plan: what a kernel may take of the chip's memory.
      kernel: gets the blocks, references to `ins` (not in a tuple if they are one), to the results, and to the state.
      backwards: whether to go through blocks of time from the last.
      ins: trees of arrays; the first is `Arrays`.
      in_wheres: which axes they have.
      results: the shapes of what comes out, and which axes that has.

    Raises:
      TooLargeError: if the chip's memory does not suffice.
    """
    outs, out_wheres = results
    blocks = blocks_of(plan, [*_pairs(ins, in_wheres), *_pairs(outs, out_wheres)])
    missing = -blocks.batch % blocks.rows
    if missing:  # members of the batch that are all zeros, and whose outputs have no gradient
        ins = _map(lambda leaf, where: _pad(leaf, where, missing), ins, in_wheres)
        outs = _map(lambda leaf, where: jax.eval_shape(lambda leaf: _pad(leaf, where, missing), leaf), outs, out_wheres)

    outs = jax.tree.map(lambda leaf: _varying_like(ins[0].projected[0], leaf), outs)

    def spec(leaf: Any, where: Where) -> pl.BlockSpec:
        return blocks.spec(leaf, where, backwards)

    state = ins[0].state
    [results] = pl.pallas_call(
        lambda *refs: kernel(blocks, refs[: len(ins)] if len(ins) > 1 else refs[0], *refs[len(ins) :]),
        grid=blocks.grid,
        in_specs=_map(spec, ins, in_wheres),
        out_specs=[_map(spec, outs, out_wheres)],
        out_shape=[outs],
        scratch_shapes=[[pltpu.VMEM((blocks.rows, *leaf.shape[1:]), leaf.dtype) for leaf in state]],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=plan.vmem_bytes
        ),
        interpret=plan.interpret,
    )(*ins)
    if missing:
        results = _map(lambda leaf, where: _unpad(leaf, where, blocks.batch), results, out_wheres)
    return results


def batch_axes(wheres: Any) -> Any:
    """As `along_batch` takes them."""
    return jax.tree.map(lambda where: where.batch_axis, wheres)


def _map(function: Callable, tree: Any, wheres: Any) -> Any:
    return jax.tree.map(lambda where, part: jax.tree.map(lambda leaf: function(leaf, where), part), wheres, tree)


def _pairs(tree: Any, wheres: Any) -> list[tuple[Any, Where]]:
    pairs: list[tuple[Any, Where]] = []
    _map(lambda leaf, where: pairs.append((leaf, where)), tree, wheres)
    return pairs


def _pad(leaf: jax.Array, where: Where, rows: int) -> jax.Array:
    """Members of the batch that are all zeros, put after the others."""
    axis = int(where.time)
    return jnp.pad(leaf, [(0, rows if number == axis else 0) for number in range(leaf.ndim)]) if where.batch else leaf


def _unpad(leaf: jax.Array, where: Where, batch: int) -> jax.Array:
    return jax.lax.slice_in_dim(leaf, 0, batch, axis=int(where.time)) if where.batch else leaf


def _varying_like(other: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A shape with the manual axes of an array, which `shard_map` wants to know of a kernel's results."""
    kind = jax.typeof(other).manual_axis_type
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, manual_axis_type=kind) if kind.varying else leaf
