"""The backward pass of the fused strategy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import State, at_least_float32, takes_product
from flaxrnn.manual_axes import vary_like
from flaxrnn.strategies.fused_steps import Plan, Sequence, results_of, scan_blocks, step
from flaxrnn.strategies.plain import select
from flaxrnn.strategies.products import dense, kernel_gradient
from flaxrnn.strategies.trees import Rest, add, floats_of, zeros_like


class Saved(NamedTuple):
    """What the forward pass leaves behind.

    Attributes:
      floats, rest: its arguments.
      outputs: its outputs.
      entries: the state before each segment.
      states: the state before each step, a list of fields; None for a field that is the output of the step before.
      results: what the matrix products gave at each step; None if they are to be computed again.
    """

    floats: list[jax.Array]
    rest: Rest
    outputs: jax.Array
    entries: State
    states: list[jax.Array | None]
    results: list[jax.Array] | None


def gradient(plan: Plan, saved: Saved, cotangents: tuple[State, jax.Array]) -> tuple[list[jax.Array], None]:
    """The gradient of `saved.floats`, segment by segment from the one that was run last."""
    params, _, fresh, sequence = saved.rest.join(saved.floats)
    d_after, d_outputs = cotangents
    count, length = jax.tree.leaves(sequence)[0].shape[:2]

    def segment(carry: tuple, now: tuple) -> tuple[tuple, list[jax.Array]]:
        d_state, d_params, d_fresh = carry
        number, sequence, entry, states, results = now

        def part(steps: jax.Array) -> jax.Array:
            steps = jax.lax.dynamic_slice_in_dim(steps, number * length, length, plan.time_axis)
            return jnp.moveaxis(steps, plan.time_axis, 0)

        states = _all_states(plan, entry, states, part(saved.outputs))
        d_state, d_more_params, d_more_fresh, d_inputs = _segment_gradient(
            plan, params, fresh, sequence, states, results, d_state, part(d_outputs)
        )
        return (d_state, add(d_params, d_more_params), add(d_fresh, d_more_fresh)), d_inputs

    like = floats_of(params)[0], fresh
    totals = vary_like(like, jax.tree.map(lambda leaf: jnp.zeros_like(at_least_float32(leaf)), like))
    steps = jnp.arange(count), sequence, saved.entries, saved.states, saved.results
    (d_state, *totals), d_inputs = jax.lax.scan(segment, (d_after, *totals), steps, reverse=not plan.reverse)
    d_params, d_fresh = jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), tuple(totals), like)
    return [*d_params, *jax.tree.leaves((d_state, d_fresh)), *d_inputs], None


def _all_states(plan: Plan, entry: State, states: list[jax.Array | None], outputs: jax.Array) -> State:
    """The state before each step, from what was saved and what the outputs tell."""
    leaves, structure = jax.tree.flatten(entry)
    told = [
        jnp.concatenate([outputs[1:], leaf[None]] if plan.reverse else [leaf[None], outputs[:-1]])
        if steps is None
        else steps
        for leaf, steps in zip(leaves, states, strict=True)
    ]
    return jax.tree.unflatten(structure, told)


def _segment_gradient(
    plan: Plan,
    params: Any,
    fresh: State,
    sequence: Sequence,
    states: State,
    results: list[jax.Array] | None,
    d_state: State,
    d_outputs: jax.Array,
) -> tuple[State, list[jax.Array], State, list[jax.Array]]:
    """The gradients of the state before a segment, of parameters, fresh state, and inputs."""
    _, mask, resets = sequence
    before = states if resets is None else jax.vmap(lambda *both: select(both[0], fresh, both[1]))(resets, states)
    floats, rest = floats_of(params)
    projected, projected_rest, pull_projection = _project(plan, floats, rest, sequence.inputs)
    if results is None:

        def again(before: State, projected: Any) -> list[jax.Array]:
            return results_of(step(plan, params, before, projected)[1])

        results = jax.vmap(again)(before, projected_rest.join(projected))

    def run(floats: list, before: State, projected: list, projected_rest: Rest, results: list) -> tuple:
        return step(plan, rest.join(floats), before, projected_rest.join(projected), results)

    def body(d_state: State, now: tuple) -> tuple[State, tuple[State, State | None]]:
        (projected, results), projected_rest, before, d_output, valid, reset = now
        projected = results[:1] if plan.adds else projected  # only its shape matters then
        # by the results too, though theirs is not wanted: else a second derivative would not know where they come from
        _, pull = jax.vjp(lambda *both: run(floats, both[0], projected, projected_rest, both[1])[0], before, results)
        return _step_gradient(pull, d_state, d_output, valid, reset)

    if mask is not None:
        d_outputs = select(mask, d_outputs, jnp.zeros_like(d_outputs))
    blocks = ([] if plan.adds else projected), results
    others = projected_rest, before, d_outputs, mask, resets
    d_state, (d_after, d_resets) = scan_blocks(plan, body, d_state, blocks, others, reverse=not plan.reverse)

    def all_steps(floats: list, projected: list, results: list) -> tuple[tuple, list[jax.Array]]:
        def one(*now: Any) -> tuple[tuple, list[jax.Array]]:
            after, products = run(floats, *now)
            return after, [product.values for product in products]

        return jax.vmap(one)(before, projected, projected_rest, results)

    _, pull, values = jax.vjp(all_steps, floats, projected, results, has_aux=True)
    d_params, d_projected, d_results = pull((d_after, d_outputs))
    now = jax.tree.map(lambda leaf: leaf[0], (before, projected, projected_rest, results))
    kernels, pull_kernels = jax.vjp(lambda floats: [made.kernel for made in run(floats, *now)[1]], floats)
    d_kernels = [
        kernel_gradient(v, d).astype(kernel.dtype) for v, d, kernel in zip(values, d_results, kernels, strict=True)
    ]
    d_params = add(d_params, pull_kernels(d_kernels)[0])
    d_more, d_inputs = pull_projection(d_results[:1] if plan.adds else d_projected)
    d_fresh = zeros_like(fresh) if d_resets is None else jax.tree.map(lambda steps: jnp.sum(steps, 0), d_resets)
    return d_state, add(d_params, d_more), d_fresh, d_inputs


def _project(plan: Plan, floats: list[jax.Array], rest: Rest, inputs: Any) -> tuple[list[jax.Array], Rest, Any]:
    """`cell.project`: its floating-point leaves, the rest, and the pullback to those of parameters and inputs."""
    input_floats, input_rest = floats_of(inputs)
    options = {"product": dense} if takes_product(plan.cell.project) else {}

    def project(floats: list[jax.Array], input_floats: list[jax.Array]) -> tuple[list[jax.Array], Rest]:
        return floats_of(plan.cell.project(rest.join(floats), input_rest.join(input_floats), **options))

    projected, pull, projected_rest = jax.vjp(project, floats, input_floats, has_aux=True)
    return projected, projected_rest, pull


def _step_gradient(
    pull: Any, d_state: State, d_output: jax.Array, valid: jax.Array | None, reset: jax.Array | None
) -> tuple[State, tuple[State, State | None]]:
    """The gradient of the state before a step, of what the step made of it, and of a fresh state where it was reset."""
    d_after, held = d_state, None
    if valid is not None:
        d_after, held = select(valid, d_state, zeros_like(d_state)), select(valid, zeros_like(d_state), d_state)
    d_before, _ = pull((d_after, d_output))
    d_reset = None
    if reset is not None:
        d_before, d_reset = select(reset, zeros_like(d_before), d_before), select(reset, d_before, zeros_like(d_before))
    return (d_before if held is None else add(d_before, held)), (d_after, d_reset)
