"""Two TPU kernels for any cell, traced from `cell.recur`: one runs all its steps, the other their gradient.

The grid iterates over blocks of the batch and, within each, over blocks of time. The state and the parameters that
`recur` uses stay on the chip; a step reads only the projected inputs and writes only the outputs.

The backward kernel runs through time in the opposite direction, with the gradient of the state on the chip, and takes
the `jax.vjp` of one step of `recur`. It writes the gradients of the products' results, from which XLA computes each
weight matrix's gradient in one product over time and batch. Other parameters' gradients are summed on the chip.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from flaxrnn.carry import vary_like
from flaxrnn.cells.products import columns
from flaxrnn.strategies.fused_products import Made, kernel_gradients
from flaxrnn.strategies.pallas_blocks import ROW, STEP, WHOLE, Blocks, Plan, batch_axes, call
from flaxrnn.strategies.pallas_step import Arrays, Layout, forward_product
from flaxrnn.strategies.partitioned import along_batch


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
        lambda arrays: forward(plan, arrays, keeps), (arrays,), batch_axes((ARRAYS,)), batch_axes(RAN), plan.mesh_axes
    )
    results = layout.unmerge_state(ran.last), layout.unmerge(ran.outputs, 1)
    return results, (params, arrays, ran.before)


def _run_backward(plan: Plan, saved: tuple, cotangents: tuple) -> tuple:
    layout, (params, arrays, before), (d_state, d_outputs) = plan.layout, saved, cotangents
    given = _once((arrays, before, layout.merge_state(d_state), layout.merge(d_outputs, 1)))
    axes = batch_axes((ARRAYS, STEP, ROW, STEP))
    gradients = along_batch(lambda *given: backward(plan, *given), given, axes, batch_axes(GRADIENTS), plan.mesh_axes)
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

    def kernel(blocks: Blocks, ins: Arrays, outs: Ran, now: list) -> None:
        pl.when(pl.program_id(1) == 0)(lambda: _store(now, _read(ins.state)))

        def step(at: Any) -> None:
            state = _read(now)
            for ref, field in zip(outs.before, state if keeps else [], strict=True):
                ref[at] = field
            (fields, outs.outputs[at]), _ = plan.layout.step(*_step_of(ins, at, state))
            _store(now, fields)

        blocks.each_step(step, plan.reverse)
        _store(outs.last, _read(now))

    return call(plan, kernel, plan.reverse, (arrays,), (ARRAYS,), (shapes, RAN))


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

    def kernel(blocks: Blocks, ins: tuple, outs: Gradients, now: list) -> None:
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
    return call(plan, kernel, not plan.reverse, ins, (ARRAYS, STEP, ROW, STEP), (shapes, GRADIENTS))


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
