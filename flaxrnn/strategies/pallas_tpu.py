"""Two TPU kernels for any cell, traced from `cell.recur`: one runs all its steps, the other their gradient.

The grid iterates over blocks of the batch and, within each, over blocks of time. The state and the parameters that
`recur` uses stay on the chip; a step reads only the projected inputs and writes only the outputs.

The backward kernel runs through time in the opposite direction, with the gradient of the state on the chip, and takes
the `jax.vjp` of one step of `recur`. It writes the gradients of the products' results, from which XLA computes each
weight matrix's gradient in one product over time and batch. Other parameters' gradients are summed on the chip.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flaxrnn.carry import vary_like
from flaxrnn.cells.products import columns
from flaxrnn.strategies.fused_products import Made, kernel_gradients
from flaxrnn.strategies.pallas_step import Arrays, Layout, forward_product
from flaxrnn.strategies.partitioned import SUMMED, along_batch

ROWS, LANES = 8, 128
"""The tile of a TPU's registers: an array's last two axes are padded to multiples of it."""
STEPS = 8
"""The most time steps in one iteration of the grid; an iteration has a fixed cost."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when the program is traced.

    Attributes:
      layout: how the cell's arguments map to arrays.
      reverse: whether to begin at the end.
      vmem_bytes: how much of the chip's VMEM a kernel may use.
      steps: the most time steps in a block.
      interpret: as `pallas_call` takes it.
      mesh_axes: the mesh axes that divide the batch.
    """

    layout: Layout
    reverse: bool
    vmem_bytes: int
    steps: int = STEPS
    interpret: Any = False
    mesh_axes: tuple[str, ...] = ()


class Ran(NamedTuple):
    """The results of the forward kernel.

    Attributes:
      outputs: `[time, batch, ...]`.
      last: the fields of the state after the last step, `[batch, ...]`.
      before: the fields of the state before each step, `[time, batch, ...]`; none unless requested.
    """

    outputs: Any
    last: Any
    before: Any


class Gradients(NamedTuple):
    """The results of the backward kernel; integers have no gradient.

    Attributes:
      shared, own, state, reset, projected: the gradients of these fields of `Arrays`.
      results: the gradients of the products' results, `[time, batch, columns]`.
      values: what those products multiply, unless it is a field of the state, `[time, batch, features]`.
    """

    shared: Any
    own: Any
    state: Any
    reset: Any
    projected: Any
    results: Any
    values: Any


@dataclasses.dataclass(frozen=True)
class Where:
    """Which of the two axes an array has; its blocks move along them."""

    time: bool
    batch: bool

    @property
    def batch_axis(self) -> int:
        """Which axis is the batch, as `along_batch` takes it."""
        return int(self.time) if self.batch else SUMMED


WHOLE, ROW, STEP = Where(False, False), Where(False, True), Where(True, True)
ARRAYS = Arrays(WHOLE, WHOLE, ROW, ROW, ROW, STEP, STEP)
RAN = Ran(STEP, ROW, STEP)
GRADIENTS = Gradients(WHOLE, ROW, ROW, ROW, STEP, STEP, STEP)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(plan: Plan, params: Any, state: Any, reset_state: Any, projected: Any, mask: Any, resets: Any) -> Any:
    """`(state, outputs)`, the outputs `[time, *batch, features]`; arguments as `Layout.arrays` takes them."""
    return _run(plan, False, params, state, reset_state, projected, mask, resets)[0]


@jax.custom_jvp
def _once(tree: Any) -> Any:
    """`tree` itself, which cannot be differentiated, since the kernels cannot."""
    return tree


@_once.defjvp
def _refuse(primals: tuple, tangents: tuple) -> NoReturn:
    del primals, tangents
    raise TypeError("the pallas strategy has no second derivative: pass strategy='fused' or strategy='plain'")


def _run(plan: Plan, keeps: bool, params: Any, *rest: Any) -> tuple[Any, Any]:
    layout, arrays = plan.layout, _once(plan.layout.arrays(params, *rest))
    ran = along_batch(
        lambda arrays: forward(plan, arrays, keeps), (arrays,), _axes((ARRAYS,)), _axes(RAN), plan.mesh_axes
    )
    results = layout.unmerge_state(ran.last), layout.unmerge(ran.outputs, 1)
    return results, (params, arrays, ran.before)


def _run_backward(plan: Plan, saved: tuple, cotangents: tuple) -> tuple:
    layout, (params, arrays, before), (d_state, d_outputs) = plan.layout, saved, cotangents
    given = _once((arrays, before, layout.merge_state(d_state), layout.merge(d_outputs, 1)))
    axes = _axes((ARRAYS, STEP, ROW, STEP))
    gradients = along_batch(lambda *given: backward(plan, *given), given, axes, _axes(GRADIENTS), plan.mesh_axes)
    if arrays.reset:  # products multiply the state after a reset
        before = [
            jnp.where(_over(arrays.marks[1], old), new, old) for new, old in zip(arrays.reset, before, strict=True)
        ]
    emitted = iter(gradients.values)
    made = [
        Made(name, gates and gates[0], gates and gates[1], next(emitted) if field is None else before[field], None)
        for name, gates, field in layout.calls
    ]
    results = [(d,) if one.gates else d for one, d in zip(made, gradients.results, strict=True)]
    totals = layout.unmerge_params(params, gradients.shared, gradients.own)
    totals = kernel_gradients(layout.cell, vary_like(arrays, totals), params, made, results)
    d_params = jax.tree.map(lambda leaf, d: None if d is None else d.astype(leaf.dtype), params, totals)
    d_reset = [d.astype(leaf.dtype) for d, leaf in zip(gradients.reset, arrays.reset, strict=True)]
    d_projected = layout.unmerge_projected(gradients.projected)
    d_states = layout.unmerge_state(gradients.state), layout.unmerge_state(d_reset) if d_reset else None
    return d_params, *d_states, d_projected, None, None


run.defvjp(lambda plan, *arguments: _run(plan, True, *arguments), _run_backward)


def gradient(plan: Plan, *arguments: Any) -> Any:
    """Runs both kernels: `run`, and its vjp on its own results."""
    results, pull = jax.vjp(lambda params: run(plan, params, *arguments[1:]), arguments[0])
    return pull(results)


def forward(plan: Plan, arrays: Arrays, keeps: bool) -> Ran:
    """Runs all steps; with `keeps`, also returns the states before them, which the gradient needs."""
    time = len(arrays.projected[0])
    fields, output = jax.eval_shape(lambda: plan.layout.step(*_first_step(arrays))[0])
    shapes = Ran(_like(output, time), [_like(leaf) for leaf in fields], [_like(leaf, time) for leaf in fields if keeps])

    def kernel(blocks: "Blocks", ins: Arrays, outs: Ran, now: list) -> None:
        pl.when(pl.program_id(1) == 0)(lambda: _store(now, _read(ins.state)))

        def step(at: Any) -> None:
            state = _read(now)
            for ref, field in zip(outs.before, state if keeps else [], strict=True):
                ref[at] = field
            (fields, outs.outputs[at]), _ = plan.layout.step(*_step_of(ins, at, state))
            _store(now, fields)

        blocks.each_step(step, plan.reverse)
        _store(outs.last, _read(now))

    return _call(plan, kernel, plan.reverse, (arrays,), (ARRAYS,), (shapes, RAN))


def backward(plan: Plan, arrays: Arrays, before: list, d_last: list, d_outputs: jax.Array) -> Gradients:
    """The gradients of `forward`, from the last step that it ran to the first."""
    layout, time = plan.layout, len(arrays.projected[0])
    emitted = [number for number, (*_, field) in enumerate(layout.calls) if field is None]

    results, values = jax.eval_shape(lambda: _products(layout, arrays))
    shapes = Gradients(
        [_like(leaf, wide=True) for leaf in arrays.shared if _is_float(leaf)],
        [_like(leaf, wide=True) for leaf in arrays.own if _is_float(leaf)],
        [_like(leaf) for leaf in arrays.state],
        [_like(leaf, wide=True) for leaf in arrays.reset],
        [_like(leaf) for leaf in arrays.projected if _is_float(leaf)],
        [_like(leaf, time) for leaf in results],
        [_like(values[number], time) for number in emitted],
    )

    def kernel(blocks: "Blocks", ins: tuple, outs: Gradients, now: list) -> None:
        arrays, before, d_last, d_outputs = ins

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            _store(now, _read(d_last))
            _clear([*outs.own, *outs.reset])

        pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))(lambda: _clear(outs.shared))

        def step(at: Any) -> None:
            kernels, shared, own, state, reset, projected, marks = _step_of(arrays, at, [ref[at] for ref in before])
            probes = [jnp.zeros(ref.shape[1:], ref.dtype) for ref in outs.results]

            def run(free: list, state: list, reset: list, probes: list) -> Any:
                params, masks, inputs = _put_floats((shared, own, projected), free)
                after, product = layout.step(kernels, params, masks, state, reset, inputs, marks, probes)
                return after, product.values

            _, pull, values = jax.vjp(run, _floats((shared, own, projected)), state, reset, probes, has_aux=True)
            d_free, d_state, d_reset, d_results = pull((_read(now), d_outputs[at]))
            totals = [*outs.shared, *outs.own]
            for total, part in zip([*totals, *outs.reset], [*d_free[: len(totals)], *d_reset], strict=True):
                total[...] += part.astype(total.dtype)
            written = [*d_free[len(totals) :], *d_results, *(values[number] for number in emitted)]
            for ref, value in zip([*outs.projected, *outs.results, *outs.values], written, strict=True):
                ref[at] = value
            _store(now, d_state)

        blocks.each_step(step, not plan.reverse)
        _store(outs.state, _read(now))

    ins = arrays, before, d_last, d_outputs
    return _call(plan, kernel, not plan.reverse, ins, (ARRAYS, STEP, ROW, STEP), (shapes, GRADIENTS))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks that a kernel's grid iterates over: `rows` of the batch and, within, `steps` of the time."""

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
        """The `BlockSpec` of an array: the block's shape, and which block each iteration of the grid works on."""
        last = self.grid[1] - 1

        def index(row: Any, turn: Any) -> tuple:
            moving = (*[last - turn if backwards else turn] * where.time, *[row] * where.batch)
            return (*moving, *[0] * (leaf.ndim - len(moving)))

        once = {} if where.batch else {"pipeline_mode": pl.Buffered(buffer_count=1)}
        return pl.BlockSpec(self.shape(leaf, where), index, **once)

    def bytes(self, leaf: Any, where: Where) -> int:
        """The VMEM that an array takes: arrays whose blocks move have two buffers."""
        *rest, rows, lanes = self.shape(leaf, where)
        size = math.prod(rest) * -(-rows // ROWS) * ROWS * -(-lanes // LANES) * LANES * leaf.dtype.itemsize
        return size * (2 if where.batch else 1)

    def each_step(self, step: Callable[[Any], None], backwards: bool) -> None:
        """Calls `step` with the number of each step within the current block."""
        turn = pl.program_id(1)
        block = self.grid[1] - 1 - turn if backwards else turn
        whole = self.time % self.steps == 0
        count = self.steps if whole else jnp.minimum(self.steps, self.time - block * self.steps)
        jax.lax.fori_loop(0, count, lambda at, _: step(count - 1 - at if backwards else at), None)


class TooLargeError(ValueError):
    """Not even the smallest blocks fit into VMEM."""


def blocks_of(plan: Plan, leaves: list[tuple[Any, Where]]) -> Blocks:
    """The largest blocks that fit into VMEM.

    Args:
      plan: has the limit.
      leaves: all arrays that the kernel reads and writes.

    Raises:
      TooLargeError: if no blocks fit; the message gives the sizes.
    """
    time, batch = next(leaf.shape[:2] for leaf, where in leaves if where == STEP)
    needed = 0
    for rows in _sizes(batch):
        for steps in (steps for steps in (8, 4, 2, 1) if steps <= min(plan.steps, time)):
            blocks, one = Blocks(time, batch, steps, rows), Blocks(time, batch, 1, rows)
            temporary = 2 * sum(one.bytes(leaf, where) for leaf, where in leaves if where == STEP)
            needed = temporary + sum(blocks.bytes(leaf, where) for leaf, where in leaves)
            if needed <= plan.vmem_bytes:
                return blocks
    raise TooLargeError(
        f"its parameters and one step take {needed / 2**20:.1f} MiB of the chip's own memory, of "
        f"{plan.vmem_bytes / 2**20:.1f} MiB"
    )


def _sizes(batch: int) -> Iterable[int]:
    """Block sizes for the batch, largest first: all of it, then multiples of two tiles (one tile of bfloat16)."""
    yield batch
    parts = 2
    while (rows := -(-batch // parts // (2 * ROWS)) * 2 * ROWS) < batch:
        yield rows
        if rows <= 2 * ROWS:
            return
        parts *= 2


def _call(plan: Plan, kernel: Callable, backwards: bool, ins: tuple, in_wheres: tuple, results: tuple) -> Any:
    """Runs a kernel over blocks, with the fields of the state in scratch memory."""
    outs, out_wheres = results
    outs = jax.tree.map(lambda leaf: _varying_like(ins[0].projected[0], leaf), outs)
    blocks = blocks_of(plan, [*_pairs(ins, in_wheres), *_pairs(outs, out_wheres)])
    missing = -blocks.batch % blocks.rows
    if missing:  # pads with zeros, whose outputs have no gradient
        ins = _map(lambda leaf, where: _pad(leaf, where, missing), ins, in_wheres)
        outs = _map(lambda leaf, where: jax.eval_shape(lambda leaf: _pad(leaf, where, missing), leaf), outs, out_wheres)

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


def _axes(wheres: Any) -> Any:
    return jax.tree.map(lambda where: where.batch_axis, wheres)


def _map(function: Callable, tree: Any, wheres: Any) -> Any:
    return jax.tree.map(lambda where, part: jax.tree.map(lambda leaf: function(leaf, where), part), wheres, tree)


def _pairs(tree: Any, wheres: Any) -> list[tuple[Any, Where]]:
    pairs: list[tuple[Any, Where]] = []
    _map(lambda leaf, where: pairs.append((leaf, where)), tree, wheres)
    return pairs


def _pad(leaf: jax.Array, where: Where, rows: int) -> jax.Array:
    """Appends `rows` zeros along the batch axis."""
    axis = int(where.time)
    return jnp.pad(leaf, [(0, rows if number == axis else 0) for number in range(leaf.ndim)]) if where.batch else leaf


def _unpad(leaf: jax.Array, where: Where, batch: int) -> jax.Array:
    return jax.lax.slice_in_dim(leaf, 0, batch, axis=int(where.time)) if where.batch else leaf


def _first_step(arrays: Arrays) -> tuple:
    """The arguments of `Layout.step` for the first step."""
    kernels, shared, own, state, reset, projected, marks = arrays
    return (kernels, shared, own, state, reset, *jax.tree.map(lambda leaf: leaf[0], (projected, marks)))


def _step_of(refs: Arrays, at: Any, state: list) -> tuple:
    """The same for one step of the current block, read from references."""
    kernels, shared, own, _, reset, projected, marks = refs
    here = jax.tree.map(lambda ref: ref[at], (projected, marks))
    return (*_read((kernels, shared, own)), state, _read(reset), *here)


def _products(layout: Layout, arrays: Arrays) -> tuple[list, list]:
    """The results of a step's products, and what they multiply."""
    kernels, shared, own, state, reset, projected, marks = _first_step(arrays)
    _, product = layout.step(kernels, shared, own, state, reset, projected, marks)
    taken = (
        kernels[name] if gates is None else columns(layout.cell, kernels, name, slice(*gates))
        for name, gates, _ in layout.calls
    )
    return [forward_product(v, kernel) for v, kernel in zip(product.values, taken, strict=True)], product.values


def _like(leaf: Any, time: int | None = None, wide: bool = False) -> jax.ShapeDtypeStruct:
    """An array's shape, with a leading time axis if `time` is given; in at least float32 if `wide`."""
    dtype = jnp.promote_types(leaf.dtype, jnp.float32) if wide else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape if time is None else (time, *leaf.shape), dtype)


def _over(marks: jax.Array, before: jax.Array) -> jax.Array:
    """Marks, `[time, batch, 1]`, that select from an array `[time, batch, ...]`."""
    return marks.reshape(*marks.shape[:2], *(1,) * (before.ndim - 2)) != 0


def _varying_like(other: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A shape with the manual axes of an array, which `shard_map` requires of a kernel's results."""
    kind = jax.typeof(other).manual_axis_type
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, manual_axis_type=kind) if kind.varying else leaf


def _read(refs: Any) -> Any:
    return jax.tree.map(lambda ref: ref[...], refs)


def _store(refs: list, values: list) -> None:
    for ref, value in zip(refs, values, strict=True):
        ref[...] = value


def _clear(refs: list) -> None:
    for ref in refs:
        ref[...] = jnp.zeros_like(ref)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _floats(tree: Any) -> list:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _put_floats(tree: Any, floats: Iterable) -> Any:
    """`tree` with other floating-point leaves."""
    left = iter(floats)
    return jax.tree.map(lambda leaf: next(left) if _is_float(leaf) else leaf, tree)
