"""Gives a loop's carry its type from the start: the manual axes inside `shard_map`, and explicit sharding."""

from collections.abc import Callable
from typing import Any

import jax


def vary_like(others: Any, tree: Any) -> Any:
    """Marks `tree` as varying over the manual mesh axes of `others`, as `shard_map` requires of a loop's carry."""
    axes = frozenset().union(*(_manual_axes(leaf) for leaf in jax.tree.leaves(others)))

    def vary(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _manual_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def shard_batch_like(others: jax.Array, batch: slice, tree: Any) -> Any:
    """`tree`, of leaves `[*batch, ...]`, with the explicit sharding that `others` has on its axes `batch`."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return tree
    axes = jax.typeof(others).sharding.spec[batch]

    def shard(leaf: jax.Array) -> jax.Array:
        return jax.sharding.reshard(leaf, jax.P(*axes, *[None] * (leaf.ndim - len(axes))))

    return jax.tree.map(shard, tree)


def shard_like_next(step: Callable[[Any], Any], state: Any) -> Any:
    """`state` with the sharding that `step` gives it on a mesh with explicit axes; unchanged elsewhere."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return state
    for _ in range(2):  # the hidden state may take the kernel's sharding, and then the memory the hidden state's
        following = jax.eval_shape(step, state)
        state = jax.tree.map(lambda leaf, like: _reshard(leaf, like.sharding), state, following)
    return state


def _reshard(array: jax.Array, sharding: Any) -> jax.Array:
    if sharding is None or jax.typeof(array).sharding == sharding:
        return array
    return jax.sharding.reshard(array, sharding)


def _manual_axes(array: jax.Array) -> frozenset[str]:
    """The mesh axes of `shard_map` along which an array varies."""
    kind = jax.typeof(array)
    manual = getattr(kind, "mat", None)  # JAX 0.10's name; earlier, `vma` is on the type itself
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)
