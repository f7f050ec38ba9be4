"""What the two directions of the fused strategy share: its plan, one step of it, and its loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend as jex
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
    time_axis: int = 0
    reverse: bool = False
    unroll: int = 1
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


def adds(plan: Plan, params: Any, state: State, projected: Any, results: list) -> bool:
    """Whether the cell looks at the sum of projection and first product, and at neither alone; by shapes."""
    floats, rest = floats_of(projected)
    if len(floats) != 1 or not results or (results[0].shape, results[0].dtype) != (floats[0].shape, floats[0].dtype):
        return False

    def recur(projected: jax.Array, first: jax.Array, others: list, params: Any, state: State, rest: Any) -> Any:
        given = iter([first, *others])
        recur: Callable = plan.cell.recur
        return recur(params, state, rest.join([projected]), product=lambda values, kernel: next(given))

    jaxpr = jax.make_jaxpr(recur)(floats[0], results[0], results[1:], params, state, rest).jaxpr
    pair = set(jaxpr.invars[:2])
    uses = [eqn for eqn in jaxpr.eqns if pair & {v for v in eqn.invars if not isinstance(v, jex.core.Literal)}]
    alone = len(uses) == 1 and uses[0].primitive.name == "add" and set(uses[0].invars) == pair
    return alone and not pair & {v for v in jaxpr.outvars if not isinstance(v, jex.core.Literal)}


def check_kernels(plan: Plan, params: Any, state: State, projected: Any) -> None:
    """Raises an error if a product's kernel is no matrix, or is made of more than parameters."""

    def kernels(state: State, projected: Any, params: Any) -> list[jax.Array]:
        return [product.kernel for product in step(plan, params, state, projected)[1]]

    jaxpr = jax.make_jaxpr(kernels)(state, projected, params).jaxpr
    moving = set(jaxpr.invars[: len(jax.tree.leaves((state, projected)))])
    for eqn in jaxpr.eqns:
        if moving & {v for v in eqn.invars if not isinstance(v, jex.core.Literal)}:
            moving |= set(eqn.outvars)
    name = type(plan.cell).__name__
    for kernel in jaxpr.outvars:
        if kernel.aval.ndim != 2:
            raise ValueError(f"{name}.recur calls product with a kernel of shape {kernel.aval.shape}: pass a matrix")
        if not isinstance(kernel, jex.core.Literal) and kernel in moving:
            raise ValueError(
                f"{name}.recur calls product with a kernel that depends on the state or the input: make that product "
                "by @, and leave product to kernels that are made of parameters alone"
            )


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
        joined = [parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1) for parts in apart]
        return body(carry, (jax.tree.unflatten(structure, joined), *others))

    return jax.lax.scan(whole, carry, (apart, others), reverse=reverse, unroll=plan.unroll)


def _add_blocks(a: jax.Array, b: jax.Array, size: int | None) -> jax.Array:
    """`a + b`, block by block, so that XLA finds each gate's sum on its own."""
    return jnp.concatenate([x + y for x, y in zip(_split(a, size), _split(b, size), strict=True)], axis=-1)


def _split(steps: jax.Array, size: int | None) -> list[jax.Array]:
    """Blocks of `size` features; one block if they do not come out even."""
    if not size or steps.ndim < 2 or steps.shape[-1] % size:
        return [steps]
    return jnp.split(steps, steps.shape[-1] // size, axis=-1)
