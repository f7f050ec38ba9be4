"""Fewer and larger matrix products: one for the inputs' projection, and one for each weight's gradient.

Let sₜ, yₜ = recur(θ, sₜ₋₁, zₜ) with zₜ = project(θ, xₜ). Forward, `project` processes many steps at once, and only what
depends on the state stays in the loop. Backward, with dsₜ for the gradient of the loss by sₜ, future steps included,

    dsₜ₋₁ = (∂sₜ/∂sₜ₋₁)ᵀ dsₜ + (∂yₜ/∂sₜ₋₁)ᵀ dyₜ

is all that must be carried from step to step, so the loop computes nothing else. Once every dsₜ is known, the steps are
independent:

    dθ = Σₜ (∂sₜ/∂θ)ᵀ dsₜ + (∂yₜ/∂θ)ᵀ dyₜ

is one `jax.vjp` over all of them together. Where a step multiplies v by a kernel W of the parameters, Σₜ vₜᵀ d(vₜW) is
a single matrix product over time and batch. The forward pass keeps each vW, or they are all computed again at once.

Both passes split the sequence into segments, so short that a segment's data stays in the processor's cache.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.carry import vary_like
from flaxrnn.cells.base import Cell, State
from flaxrnn.cells.products import MatrixProducts
from flaxrnn.strategies.base import Sequence, Steps, Strategy, guarded, symbolic
from flaxrnn.strategies.fused_products import DenseProducts, KnownProducts, Made, RecordedProducts, kernel_gradients
from flaxrnn.strategies.segments import in_segments, segment_length

SEGMENT_BYTES = {"cpu": 2 * 2**20, "tpu": 4 * 2**20}
"""The size limit of a segment's projected inputs, by backend: on the CPU about that of the L2 cache."""
WHOLE_BYTES = {"tpu": 8 * 2**20}
"""Up to this size, the whole sequence is one segment."""
UNROLL = {"gpu": 4}
"""The least unrolling of the loops: on a GPU, launching kernels takes most of a loop's time."""
FEW_TURNS = 4
"""With fewer iterations than this, XLA would unroll the whole loop, which takes long to compile."""
KEEP_BYTES = {"cpu": 128 * 2**20}
"""The limit up to which the products' results are stored for the backward pass; above it, they are recomputed."""
ELSEWHERE = 256 * 2**20
"""Both limits on other backends. Settings for GPU and TPU follow their compilers' estimates, not measurements."""


@dataclasses.dataclass(frozen=True)
class Fused(Strategy):
    """Runs any cell with floating-point states; cells that make their products through `product` gain the most.

    It defines its own reverse-mode derivative, which can be differentiated further. For forward-mode derivatives
    (`jax.jvp`, `jax.jacfwd`, `jax.linearize`) choose "plain".

    Attributes:
      segment_bytes: the size limit of a segment's projected inputs on one device; by default one that suits the
        backend.
      keep_bytes: the limit up to which the products' results are stored for the backward pass on one device; above it,
        they are recomputed.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> strategy = flaxrnn.strategies.Fused(keep_bytes=0)
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 6, 3]), strategy=strategy)
    """

    segment_bytes: int | None = None
    keep_bytes: int | None = None

    name = "fused"
    forward_mode = False

    def why_not(self, sequence: Sequence) -> str | None:
        if not all(_is_float(leaf) for leaf in jax.tree.leaves(sequence.state)):
            return "the state has fields that are not floating-point numbers"
        if jax.sharding.get_abstract_mesh().explicit_axes:
            return "the mesh of jax.set_mesh has explicit axes"
        return symbolic(*sequence.shape)

    def describe(self, sequence: Sequence) -> str:
        time, (plan, length) = sequence.shape[0], self._plan(sequence)
        line = "all steps in one segment" if length >= time else f"{-(-time // length)} segments of {length} steps"
        if not products_of(sequence):
            return line
        return f"{line}, products {'kept' if plan.keeps else 'computed again in the backward pass'}"

    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        plan, length = self._plan(sequence)
        arguments = sequence.params, sequence.state, sequence.reset_state, sequence.steps
        params, state, reset_state, steps = vary_like(arguments, arguments)

        def segment(state: State, steps: Steps) -> tuple[State, jax.Array]:
            return _run(plan, params, state, reset_state, steps)

        return in_segments(segment, sequence._replace(state=state, steps=steps), length)

    def _plan(self, sequence: Sequence) -> tuple["Plan", int]:
        """What is fixed when the program is traced, and how many steps a segment has."""
        backend, time = jax.default_backend(), sequence.shape[0]
        segment = SEGMENT_BYTES.get(backend, ELSEWHERE) if self.segment_bytes is None else self.segment_bytes
        keep = KEEP_BYTES.get(backend, ELSEWHERE) if self.keep_bytes is None else self.keep_bytes
        keeps = time * _bytes(products_of(sequence)) <= keep
        step = max(1, _bytes(sequence.projected()))
        if self.segment_bytes is None and time * step <= WHOLE_BYTES.get(backend, 0):
            segment = time * step
        length = segment_length(time, segment // step)
        at_least = UNROLL.get(backend, 1) if length >= FEW_TURNS * UNROLL.get(backend, 1) else 1
        return Plan(sequence.cell, sequence.reverse, max(sequence.unroll, at_least), keeps), length


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when the program is traced: the options of a `Sequence`, and whether products are kept."""

    cell: Cell
    reverse: bool
    unroll: int
    keeps: bool

    def step(self, product: RecordedProducts, reset_state: State, before: State, projected: Any, now: Steps) -> tuple:
        """A guarded step: `((state, output), made)`, with the products that it made."""
        after = guarded(
            lambda state: self.cell.recur(product.params, state, projected, product),
            before,
            reset_state,
            now.mask,
            now.resets,
        )
        return after, product.made


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(plan: Plan, params: Any, state: State, reset_state: State, steps: Steps) -> tuple[State, jax.Array]:
    """One segment: the state after it, and its outputs, `[time, *batch, output_size]`."""
    return _forward(dataclasses.replace(plan, keeps=False), params, state, reset_state, steps)[0]


def _forward(plan: Plan, params: Any, state: State, reset_state: State, steps: Steps) -> tuple[tuple, tuple]:
    def body(state: State, now: tuple) -> tuple[State, tuple]:
        projected, marks = now
        product = RecordedProducts(plan.cell, params)
        (after, output), made = plan.step(product, reset_state, state, projected, marks)
        # a field that equals the output is stored once, as the output of the step before
        before = [
            None if new is output else old for new, old in zip(*map(jax.tree.leaves, (after, state)), strict=True)
        ]
        return after, (output, before, [one.result for one in made] if plan.keeps else None)

    projected = plan.cell.project(params, steps.inputs, MatrixProducts(plan.cell, params))
    loop = projected, steps._replace(inputs=None)
    after, (outputs, before, results) = jax.lax.scan(body, state, loop, reverse=plan.reverse, unroll=plan.unroll)
    return (after, outputs), (params, state, reset_state, steps, outputs, before, results)


def _backward(plan: Plan, saved: tuple, cotangents: tuple[State, jax.Array]) -> tuple[Any, State, State, Steps]:
    params, first, reset_state, steps, outputs, before, results = saved
    d_last, d_outputs = cotangents
    before = _states_before(plan, first, before, outputs)
    marks = steps._replace(inputs=None)

    def project(params: Any, inputs: Any) -> Any:
        return plan.cell.project(params, inputs, DenseProducts(plan.cell, params))

    projected, pull_projection = jax.vjp(project, params, steps.inputs)
    if results is None:

        def again(*now: Any) -> list:
            return [one.result for one in plan.step(RecordedProducts(plan.cell, params), reset_state, *now)[1]]

        results = jax.vmap(again)(before, projected, marks)

    def body(d_after: State, now: tuple) -> tuple[State, State]:
        before, projected, results, marks, d_output = now

        def step(before: State, results: list) -> tuple[State, jax.Array]:
            product = KnownProducts(plan.cell, params, known=results)
            return plan.step(product, reset_state, before, projected, marks)[0]

        # differentiate through `results` too: second derivatives need it
        d_before, _ = jax.vjp(step, before, results)[1]((d_after, d_output))
        return d_before, d_after

    loop = before, projected, results, marks, d_outputs
    d_first, d_after = jax.lax.scan(body, d_last, loop, reverse=not plan.reverse, unroll=plan.unroll)

    def all_steps(params: Any, reset_state: State, projected: Any, results: list) -> tuple[Any, list[Made]]:
        def step(before: State, projected: Any, results: list, marks: Steps) -> tuple[Any, list[Made]]:
            return plan.step(KnownProducts(plan.cell, params, known=results), reset_state, before, projected, marks)

        return jax.vmap(step)(before, projected, results, marks)

    _, pull, made = jax.vjp(all_steps, params, reset_state, projected, results, has_aux=True)
    d_params, d_reset, d_projected, d_results = pull((d_after, d_outputs))
    d_more, d_inputs = pull_projection(d_projected)
    d_params = kernel_gradients(plan.cell, jax.tree.map(_add, d_params, d_more), params, made, d_results)
    return d_params, d_first, d_reset, Steps(d_inputs)


def _states_before(plan: Plan, first: State, before: list[jax.Array | None], outputs: jax.Array) -> State:
    """The state before each step, from what was saved and from the outputs."""
    leaves, structure = jax.tree.flatten(first)
    whole = [
        jnp.concatenate([outputs[1:], leaf[None]] if plan.reverse else [leaf[None], outputs[:-1]])
        if kept is None
        else kept
        for leaf, kept in zip(leaves, before, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)


def products_of(sequence: Sequence) -> list:
    """The shapes of the results of one step's products; none if `recur` makes none through `product`."""

    def results(params: Any, state: State, projected: Any) -> list:
        product = RecordedProducts(sequence.cell, params)
        sequence.cell.recur(params, state, projected, product)
        return [one.result for one in product.made]

    return jax.eval_shape(results, sequence.params, sequence.state, sequence.projected())


def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of two gradients; those of integers are `float0`, which cannot be added."""
    return a if a.dtype == jax.dtypes.float0 else a + b


def _bytes(tree: Any) -> int:
    """How many bytes a tree takes on one device."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


_run.defvjp(_forward, _backward)
