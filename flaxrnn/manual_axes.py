"""The mesh axes along which an array varies inside `jax.shard_map`."""

from typing import Any

import jax


def vary_like(others: Any, tree: Any) -> Any:
    """`tree` with the manual axes of `others`, which under `shard_map` a loop's carry must have from the start."""
    axes = frozenset().union(*(_manual_axes(leaf) for leaf in jax.tree.leaves(others)))

    def vary(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _manual_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _manual_axes(array: jax.Array) -> frozenset[str]:
    """The mesh axes of `shard_map` along which an array varies."""
    kind = jax.typeof(array)
    manual = getattr(kind, "mat", None)  # JAX 0.10's name; before, the type itself has `vma`
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)
