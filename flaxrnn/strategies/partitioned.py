"""Functions that XLA cannot divide, such as kernels, run on each device's part of the batch."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

SUMMED = -1
"""In place of the batch axis, for an argument or a result without one."""


def along_batch(function: Callable, arguments: tuple, in_axes: tuple, out_axes: Any) -> Any:
    """`function(*arguments)`, each device working on the part of the batch that it has.

    Args:
      function: works through a batch of any size, each member on its own.
      arguments: trees of arrays.
      in_axes: for each array, or for a whole tree of them, which axis is the batch, or `SUMMED`: each device has all.
      out_axes: the same for the results; those with `SUMMED` are added up over the devices.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:  # inside `shard_map` the arrays are parts already
        return function(*arguments)
    leaves, structure = jax.tree.flatten(arguments)
    results, out_structure = jax.tree.flatten(jax.eval_shape(function, *arguments))
    axes_in = jax.tree.leaves(jax.tree.map(_everywhere, in_axes, arguments))
    axes_out = jax.tree.leaves(jax.tree.map(_everywhere, out_axes, jax.tree.unflatten(out_structure, results)))

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

    divided = custom_partitioning(flat)
    divided.def_partition(
        partition=functools.partial(_partition, flat, axes_in, axes_out),
        sharding_rule=_rule(leaves, axes_in, results, axes_out),
        need_replication_factors=_all_but_batch(leaves + results, axes_in + axes_out),
    )
    one_by_one = jax.custom_batching.sequential_vmap(lambda *leaves: divided(*leaves))
    return jax.tree.unflatten(out_structure, one_by_one(*leaves))


def _everywhere(axis: int, tree: Any) -> Any:
    return jax.tree.map(lambda _: axis, tree)


def _partition(function: Callable, axes_in: list, axes_out: list, mesh: Any, given: Any, wanted: Any) -> tuple:
    """What `custom_partitioning` asks for: the function of one device and the shardings of its arrays."""
    specs = (
        like.sharding.spec[axis]
        for like, axis in zip(given, axes_in, strict=True)
        if SUMMED != axis < len(like.sharding.spec)
    )
    batch = next((spec for spec in specs if spec is not None), None)

    def lay(likes: Any, axes: list) -> tuple:
        return tuple(
            NamedSharding(mesh, PartitionSpec(*(batch if number == axis else None for number in range(len(like.shape)))))
            for like, axis in zip(likes, axes, strict=True)
        )

    def local(*leaves: jax.Array) -> list[jax.Array]:
        results = function(*leaves)
        if batch is None:
            return results
        return [
            jax.lax.psum(leaf, batch) if axis == SUMMED else leaf for leaf, axis in zip(results, axes_out, strict=True)
        ]

    return mesh, local, lay(wanted, axes_out), lay(given, axes_in)


def _rule(leaves: list, axes_in: list, results: list, axes_out: list) -> str:
    """In Shardy's notation: one factor `b` for the batch, and others, never the same, for all other axes."""
    names = (f"f{number}" for number in itertools.count())

    def side(leaves: list, axes: list) -> str:
        return ", ".join(
            " ".join("b" if number == axis else next(names) for number in range(leaf.ndim))
            for leaf, axis in zip(leaves, axes, strict=True)
        )

    return f"{side(leaves, axes_in)} -> {side(results, axes_out)}"


def _all_but_batch(leaves: list, axes: list) -> tuple[str, ...]:
    """The factors that no device may divide."""
    count = sum(leaf.ndim - (axis != SUMMED) for leaf, axis in zip(leaves, axes, strict=True))
    return tuple(f"f{number}" for number in range(count))
