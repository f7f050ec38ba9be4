"""What a cell computes, whatever its parameters began with, and whether a framework can compute it."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell
from flaxrnn.cells.elman import relu, tanh

ANY = None
"""Any value of an option."""
Cells = dict[type[Cell], dict[str, tuple | None]]
"""The cells that a framework has, with the values of their options besides the default."""


def sigmoid(x: jax.Array) -> jax.Array:
    """`jax.nn.sigmoid`, which cannot be pickled itself."""
    return jax.nn.sigmoid(x)


def linear(x: jax.Array) -> jax.Array:
    """`x` itself."""
    return x


PICKLABLE: dict[Any, Callable] = {
    jnp.tanh: tanh,
    jax.lax.tanh: tanh,
    jax.nn.relu: relu,
    jax.nn.sigmoid: sigmoid,
    jax.lax.logistic: sigmoid,
}
"""The functions of this package for those of JAX that compute the same."""


def known(activation: Any) -> Any:
    """This package's own function for an activation, so that it can be compared and pickled; any other as it is."""
    return PICKLABLE.get(activation, activation) if isinstance(activation, Hashable) else activation


def named(activation: Callable, names: dict[str, Callable]) -> str | None:
    """A framework's name of an activation, out of its names; None if it has none."""
    return next((name for name, function in names.items() if function is known(activation)), None)


def arithmetic(cell: Cell) -> tuple[Any, ...]:
    """What a cell computes in evaluation, to compare: its kind and its options, but for those of training."""
    return (type(cell), *_options(cell).items())


def check_expressible(framework: str, cells: Cells, reasons: dict[str, str], cell: Cell) -> None:
    """Raises an error unless a framework has such a cell, of `cells` with those values of their options.

    A cell without biases is no error anywhere: where a framework's cells all have them, they are zero.
    """
    kind = type(cell)
    if kind not in cells:
        raise ValueError(f"{framework} has no {cell}: it has {', '.join(other.__name__ for other in cells)}")
    defaults = {field.name: field.default for field in dataclasses.fields(cell)}
    for name, value in _options(cell).items():
        allowed = cells[kind].get(name, (defaults[name],))
        if name not in ("hidden_size", "use_bias") and allowed is not ANY and value not in allowed:
            shown = " or ".join(_name_of(one) for one in allowed)
            reason = f": {reasons[name]}" if name in reasons else ""
            raise ValueError(f"{framework} has no {kind.__name__} with {name}={_name_of(value)}, only {shown}{reason}")


def _options(cell: Cell) -> dict[str, Any]:
    """The options of a cell that change what it computes in evaluation, its size among them."""
    names = [field.name for field in dataclasses.fields(cell)]
    training = [name for name in names if name == "forget_bias" or name.endswith(("_init", "_dropout"))]
    return {name: known(getattr(cell, name)) for name in names if name not in training}


def _name_of(value: Any) -> str:
    return getattr(value, "__name__", repr(value))
