"""What the two directions of the fused strategy share: its plan, one step of it, and its loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell, State
from flaxrnn.strategies.products import known_product
from flaxrnn.strategies.trees import floats_of


class Sequence(NamedTuple):
    """What is known of each step before the first one runs; each leaf is `[time, ...]` or `[segments, length, ...]`."""

    inputs: Any
    mask: jax.Array | None
    resets: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when the program is traced.

    Attributes:
      cell: the cell.
      time_axis: which axis of the outputs is time.
      reverse: whether to begin at the end.
      unroll: how many steps XLA puts into one turn of a loop.
      adds: whether the cell looks at the sum of projection and first product, never at one of them alone.
      keeps: whether the results of the products are kept for the backward pass.
    """

    cell: Cell
    time_axis: int
    reverse: bool
    unroll: int
    adds: bool = False
    keeps: bool = False


class Product(NamedTuple):
    """A matrix product that a step has made."""

    values: jax.Array
    kernel: jax.Array
    result: jax.Array


def step(
    plan: Plan, params: Any, before: State, projected: Any, known: list[jax.Array] | None = None
) -> tuple[tuple[State, jax.Array], list[Product]]:
    """`cell.recur`, and the products that it made, or whose results it took from `known`.

    If `plan.adds`, the projection is added to the result of the first product, and the cell gets zeros for it.
    """
    if not plan.cell.passes_products:
        return plan.cell.recur(params, before, projected), []
    made: list[Product] = []
    floats, rest = floats_of(projected)

    def product(values: jax.Array, kernel: jax.Array) -> jax.Array:
        if known is not None:
            result = known_product(values, kernel, known[len(made)])
        elif plan.adds and not made:
            result = _add_blocks(floats[0], values @ kernel, plan.cell.block_size)
        else:
            result = values @ kernel
        made.append(Product(values, kernel, result))
        return result

    if plan.adds:
        projected = rest.join([jnp.zeros_like(floats[0])])
    recur: Callable = plan.cell.recur
    return recur(params, before, projected, product=product), made


def results_of(products: list[Product]) -> list[jax.Array]:
    """The results of some products."""
    return [product.result for product in products]


def adds(plan: Plan, params: Any, state: State, projected: Any) -> bool:
    """Whether projection and first product have one and the same gradient, as of a sum; shapes are all it looks at."""
    if not plan.cell.passes_products:
        return False
    results = jax.eval_shape(lambda *args: results_of(step(plan, *args)[1]), params, state, projected)
    floats, rest = floats_of(projected)
    if len(floats) != 1 or not results or results[0].shape != floats[0].shape:
        return False

    def gradients(params: Any, state: State, rest: Any, projected: jax.Array, results: list) -> tuple:
        def run(projected: jax.Array, results: list) -> tuple[State, jax.Array]:
            return step(plan, params, state, rest.join([projected]), results)[0]

        out, pull = jax.vjp(run, projected, results)
        d_projected, d_results = pull(out)
        return d_projected, d_results[0]

    of_projected, of_result = jax.make_jaxpr(gradients)(params, state, rest, floats[0], results).jaxpr.outvars
    return of_projected is of_result


def scan_blocks(
    plan: Plan, body: Callable, carry: Any, blocks: Any, others: tuple, *, reverse: bool
) -> tuple[Any, Any]:
    """`lax.scan` over `(blocks, *others)`, with each gate's block stored apart.

    XLA's loops on the CPU are not vectorised where they take several parts out of one step of a longer array: the
    gates of an LSTM took five times as long.
    """
    leaves, structure = jax.tree.flatten(blocks)
    apart = [_split(leaf, plan.cell.block_size) for leaf in leaves]

    def whole(carry: Any, now: tuple) -> tuple[Any, Any]:
        apart, others = now
        joined = [jnp.concatenate(parts, axis=-1) for parts in apart]
        return body(carry, (jax.tree.unflatten(structure, joined), *others))

    return jax.lax.scan(whole, carry, (apart, others), reverse=reverse, unroll=plan.unroll)


def _add_blocks(a: jax.Array, b: jax.Array, size: int | None) -> jax.Array:
    """`a + b`, block by block, so that XLA finds each gate's sum on its own."""
    return jnp.concatenate([x + y for x, y in zip(_split(a, size), _split(b, size), strict=True)], axis=-1)


def _split(steps: jax.Array, size: int | None) -> list[jax.Array]:
    """Blocks of `size` features; one block if they do not come out even."""
    features = steps.shape[-1]
    return jnp.split(steps, features // size, axis=-1) if size and features % size == 0 else [steps]
