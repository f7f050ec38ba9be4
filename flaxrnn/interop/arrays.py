"""Named NumPy arrays, out of what frameworks keep weights in and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn.checks import describe

Arrays = dict[str, np.ndarray]
"""Arrays by their names; the parts of a name are divided by slashes, in torch by dots."""


class DTypeError(TypeError):
    """Weights are in a dtype in which they cannot be used; where they come from a file, the file is at fault."""


def flatten(weights: Any, path: str = "") -> dict[str, Any]:
    """A tree of mappings and lists as values by name, such as `"params/cell/ii/kernel"`."""
    if isinstance(weights, Mapping):
        parts: Any = weights.items()
    elif isinstance(weights, list | tuple):
        parts = enumerate(weights)
    else:
        return {path: weights}
    flat: dict[str, Any] = {}
    for name, value in parts:
        flat |= flatten(value, f"{path}/{name}" if path else str(name))
    return flat


def unflatten(arrays: Arrays) -> dict[str, Any]:
    """A tree of dicts; undoes `flatten`."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = array
    return tree


def below(weights: Any, prefix: str) -> Arrays:
    """The arrays of a tree whose name begins with `prefix`, which is taken off; the others may be anything."""
    if not isinstance(weights, Mapping | list | tuple):
        raise TypeError(
            f"weights is {describe(weights)}: pass arrays by name, or a tree of them, such as module.state_dict() of "
            "torch, the variables of linen, nnx.state(module, nnx.Param)"
        )
    if not isinstance(prefix, str):
        raise TypeError(f"prefix is {prefix!r}: pass the beginning of names, such as 'encoder.'")
    values = flatten(weights)
    if prefix and prefix[-1] not in "./":  # "encoder" is a whole part of a name where it can be
        prefix = next((prefix + end for end in "./" if any(name.startswith(prefix + end) for name in values)), prefix)
    found = {name: value for name, value in values.items() if name.startswith(prefix)}
    if not found:
        begin = f" that begin with {prefix!r}" if prefix else ""
        raise ValueError(f"there are no weights{begin}{': there are ' + listed(values) if values else ''}")
    return {name.removeprefix(prefix): to_numpy(name, value) for name, value in found.items()}


def check_no_prefix(prefix: str) -> None:
    """Raises an error if there is a prefix where no names are."""
    if prefix:
        raise ValueError(f"prefix is {prefix!r}, but source is a network and no weights by name: leave prefix out")


def to_numpy(name: str, value: Any) -> np.ndarray:
    """A framework's array as NumPy's, with the same numbers; a copy where that is needed."""
    if hasattr(value, "detach"):  # torch's, which in bfloat16 has no NumPy form
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(jnp.bfloat16)
    elif hasattr(value, "get_value"):  # nnx's variables
        value = value.get_value()
    try:
        array = np.asarray(value)
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
    except TypeError:
        is_float = False
    if not is_float:
        what = getattr(value, "dtype", type(value).__name__)
        raise DTypeError(
            f"{name} is not an array of floating-point numbers, but {what}: leave it out, by prefix='...' for instance"
        )
    return array


def to_jax(name: str, array: np.ndarray) -> jax.Array:
    """The same numbers for JAX; an error where JAX would make them narrower."""
    if array.dtype == np.float64 and jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise DTypeError(
            f"{name} is in float64, which JAX has not switched on: call jax.config.update('jax_enable_x64', True) at "
            "the start of the program, or pass weights in float32"
        )
    return jnp.asarray(array)


def listed(names: Any, limit: int = 12) -> str:
    """Names for a message, not too many of them."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
