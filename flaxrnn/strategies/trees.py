"""Trees of which only the floating-point leaves have a gradient."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_pytree_node_class
class Rest:
    """What is left of a tree when its floating-point leaves are taken out: its structure, and the other leaves."""

    def __init__(self, structure: Any, leaves: list) -> None:
        self.structure, self.leaves = structure, leaves

    def join(self, floats: list) -> Any:
        """The tree, with these floating-point leaves."""
        remaining = iter(floats)
        return jax.tree.unflatten(self.structure, [next(remaining) if leaf is None else leaf for leaf in self.leaves])

    def tree_flatten(self) -> tuple[list, Any]:
        return self.leaves, self.structure

    @classmethod
    def tree_unflatten(cls, structure: Any, leaves: list) -> "Rest":
        return cls(structure, leaves)


def floats_of(tree: Any) -> tuple[list, Rest]:
    """The floating-point leaves of a tree, and the rest of it."""
    leaves, structure = jax.tree.flatten(tree)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, yes in zip(leaves, is_float, strict=True) if yes]
    return floats, Rest(structure, [None if yes else leaf for leaf, yes in zip(leaves, is_float, strict=True)])


def add(total: Any, more: Any) -> Any:
    """The sum of two trees, in the dtypes of the first."""
    return jax.tree.map(lambda t, m: t + m.astype(t.dtype), total, more)


def zeros_like(tree: Any) -> Any:
    """A tree of zeros."""
    return jax.tree.map(jnp.zeros_like, tree)
