"""What the linen and the nnx modules share."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.typing import DTypeLike

from flaxrnn.cells.base import Cell
from flaxrnn.checks import describe, same_structure
from flaxrnn.layers import RNN, Layer


def as_layer(cell_or_layer: Any, reverse: bool = False, include_initial: bool = False) -> Layer:
    """A layer; a cell becomes an `RNN` with these options."""
    if isinstance(cell_or_layer, Cell):
        return RNN(cell_or_layer, reverse, include_initial)
    if not isinstance(cell_or_layer, Layer):
        raise TypeError(
            f"the module's cell is {describe(cell_or_layer)}: pass a flaxrnn cell, such as flaxrnn.cells.LSTM(128), "
            "or a flaxrnn layer"
        )
    if reverse or include_initial:
        raise ValueError(
            f"reverse and include_initial go with a cell, not with {cell_or_layer}: make the layer so itself"
        )
    return cell_or_layer


def cast(
    layer: Layer, dtype: DTypeLike | None, inputs: jax.Array, params: Any, initial_state: Any
) -> tuple[jax.Array, Any, Any]:
    """Inputs, parameters and initial state for computing in `dtype`; as they are if it is None.

    The fields of the state get the dtypes that the layer's own state has then: an LSTM's memory stays in float32.
    """
    if dtype is None:
        return inputs, params, initial_state
    like = jax.eval_shape(lambda: layer.initial_state(dtype=dtype))
    initial_state = _tuples(initial_state)
    if same_structure(initial_state, like):
        initial_state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), initial_state, like)
    return inputs.astype(dtype), jax.tree.map(lambda leaf: leaf.astype(dtype), params), initial_state


def _tuples(states: Any) -> Any:
    """The states of a layer's parts, which may be given as lists, as tuples."""
    if isinstance(states, tuple | list) and not hasattr(states, "_fields"):
        return tuple(map(_tuples, states))
    return states


def check_partitioning(partitioning: Mapping[str, tuple[str | None, ...]] | None, params: Any) -> None:
    """Raises an error unless `partitioning` has a name for each axis of each parameter that it names."""
    ranks = {path[-1].key: leaf.ndim for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name, axes in (partitioning or {}).items():
        if name not in ranks:
            raise ValueError(f"partitioning has {name!r}, but the parameters are {', '.join(sorted(ranks))}")
        if len(axes) != ranks[name]:
            raise ValueError(
                f"partitioning has {axes} for {name!r}: pass a name or None for each of its {ranks[name]} axes"
            )
