"""Fewer and larger matrix products: the inputs' in one, and each weight's gradient in one.

Forward, `cell.project` sees many steps at once, and the loop keeps only what must wait for the state.

Backward, the loop carries the gradient of the state from step to step and does nothing else. Once that is known at each
step, no step need wait for another: all steps together are a function without recurrence, whose gradient gives those
of parameters and inputs, each weight's by one matrix product.

Both go through the sequence in segments, so short that what a segment needs stays in the processor's cache.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell, State
from flaxrnn.manual_axes import vary_like
from flaxrnn.strategies.fused_gradient import Saved, gradient
from flaxrnn.strategies.fused_steps import Plan, Sequence, adds, check_kernels, results_of, scan_blocks, step
from flaxrnn.strategies.plain import plain, select
from flaxrnn.strategies.segments import cut, pad, segment_length
from flaxrnn.strategies.trees import Rest, floats_of

SEGMENT_BYTES = {"cpu": 2 * 2**20}
"""How much of `cell.project` a segment may take, by backend: on the CPU about what its second cache holds."""
KEEP_BYTES = {"cpu": 128 * 2**20}
"""How much of the products' results may be kept for the backward pass; above, they are computed a second time."""
ELSEWHERE = 256 * 2**20
"""Either limit on a GPU or TPU; not measured."""


def fused(
    cell: Cell,
    params: Any,
    state: State,
    fresh: State,
    inputs: Any,
    mask: jax.Array | None,
    resets: jax.Array | None,
    *,
    time_axis: int,
    reverse: bool,
    unroll: int,
) -> tuple[State, jax.Array]:
    """Runs `cell` over `inputs`; arguments and results are those of `plain`.

    It is for any cell. One whose `recur` takes a `product` gets the most of it: the products of the forward pass then
    serve in the backward pass too. Every `GatedCell` is one, unless it overrides `recur` without. A cell whose state
    has fields that are not floating-point numbers is run by `plain`.

    It has a reverse-mode derivative of its own, which can be differentiated further; for a forward-mode derivative
    (`jax.jvp`, `jax.jacfwd`, `jax.linearize`) choose "plain".
    """
    if floats_of(state)[1].leaves.count(None) < len(jax.tree.leaves(state)):
        return plain(
            cell, params, state, fresh, inputs, mask, resets, time_axis=time_axis, reverse=reverse, unroll=unroll
        )
    time = len(jax.tree.leaves(inputs)[0])
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    plan, length = make_plan(Plan(cell, time_axis, reverse, unroll), params, state, first, time)
    sequence = cut(Sequence(*pad(inputs, mask, resets, length)), length)
    arguments = params, state, fresh, sequence
    state, outputs = _run(plan, *floats_of(vary_like(arguments, arguments)))
    return state, jax.lax.slice_in_dim(outputs, 0, time, axis=time_axis)


def make_plan(plan: Plan, params: Any, state: State, inputs: Any, time: int) -> tuple[Plan, int]:
    """The plan with what follows from the shapes of one step's inputs, and how many steps a segment has."""
    projected = jax.eval_shape(plan.cell.project, params, inputs)
    results: list = []
    if plan.cell.passes_products:
        check_kernels(plan, params, state, projected)
        results = jax.eval_shape(lambda *args: results_of(step(plan, *args)[1]), params, state, projected)
    limit = SEGMENT_BYTES.get(jax.default_backend(), ELSEWHERE)
    length = segment_length(time, limit // max(1, _bytes(projected)))
    keeps = time * _bytes(results) <= KEEP_BYTES.get(jax.default_backend(), ELSEWHERE)
    return dataclasses.replace(plan, keeps=keeps, adds=adds(plan, params, state, projected, results)), length


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(plan: Plan, floats: list[jax.Array], rest: Rest) -> tuple[State, jax.Array]:
    """All segments; `rest.join(floats)` is `(params, state, fresh, sequence)`, of which floats have a gradient."""
    return _forward(dataclasses.replace(plan, keeps=False), floats, rest)[0]


def _forward(plan: Plan, floats: list[jax.Array], rest: Rest) -> tuple[tuple[State, jax.Array], Saved]:
    params, state, fresh, sequence = rest.join(floats)
    count, length = jax.tree.leaves(sequence)[0].shape[:2]

    def segment(carry: tuple, now: tuple) -> tuple[tuple, tuple]:
        state, outputs = carry
        number, sequence = now
        after, (part, saved) = _forward_segment(plan, params, state, fresh, sequence)
        part = jnp.moveaxis(part, 0, plan.time_axis)
        outputs = jax.lax.dynamic_update_slice_in_dim(outputs, part, number * length, plan.time_axis)
        return (after, outputs), (state, saved)

    first = jax.tree.map(lambda leaf: leaf[0], sequence)
    like = jax.eval_shape(lambda: _forward_segment(plan, params, state, fresh, first)[1][0])
    shape = (*like.shape[1 : 1 + plan.time_axis], count * length, *like.shape[1 + plan.time_axis :])
    carry = state, vary_like(state, jnp.zeros(shape, like.dtype))
    steps = jnp.arange(count), sequence
    (after, outputs), (entries, saved) = jax.lax.scan(segment, carry, steps, reverse=plan.reverse)
    return (after, outputs), Saved(floats, rest, outputs, entries, *saved)


def _forward_segment(plan: Plan, params: Any, state: State, fresh: State, sequence: Sequence) -> tuple[State, tuple]:
    """One segment: `(state, (outputs, (states, results)))`, the last two for the backward pass.

    `states` has the state before each step; None stands for a field that is the output of the step before.
    """

    def body(state: State, now: tuple) -> tuple[State, tuple]:
        projected, valid, reset = now
        before = state if reset is None else select(reset, fresh, state)
        (after, output), made = step(plan, params, before, projected)
        told = [leaf is output and valid is None for leaf in jax.tree.leaves(after)]
        states = [None if told else leaf for told, leaf in zip(told, jax.tree.leaves(state), strict=True)]
        if valid is not None:
            after, output = select(valid, (after, output), (state, jnp.zeros_like(output)))
        return after, (output, (states, results_of(made) if plan.keeps else None))

    projected = plan.cell.project(params, sequence.inputs)
    return scan_blocks(plan, body, state, projected, (sequence.mask, sequence.resets), reverse=plan.reverse)


_run.defvjp(_forward, gradient)
