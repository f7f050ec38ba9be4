"""The matrix products of the fused strategy: recorded, replayed, and with the gradients that XLA computes fastest."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxrnn.cells import convolution
from flaxrnn.cells.base import Cell
from flaxrnn.cells.products import MatrixProducts, at_least_float32, column_slice, columns, multiply


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "result"], meta_fields=["name", "first", "last"]
)
@dataclasses.dataclass(frozen=True)
class Made:
    """A product that a step has made.

    Attributes:
      name: the kernel's name.
      first, last: the gates whose columns were taken, as in `slice(first, last)`; None for a kernel without gates.
      values: what was multiplied.
      result: what came of it, in the dtype of the product.
    """

    name: str
    first: int | None
    last: int | None
    values: jax.Array
    result: Any

    @property
    def gates(self) -> slice | None:
        """As `Product` takes them."""
        return None if self.first is None else slice(self.first, self.last)


@dataclasses.dataclass(frozen=True)
class RecordedProducts(MatrixProducts):
    """The products of one step, which are listed in `made`."""

    made: list[Made] = dataclasses.field(default_factory=list)

    def __call__(
        self, name: str, values: jax.Array, *, gates: slice | None = None, add: tuple[jax.Array, ...] | None = None
    ) -> Any:
        result = self.result(name, values, gates, add)
        first, last, _ = (None, None, None) if gates is None else gates.indices(len(self.cell.gates))
        dtype = jnp.result_type(values, self.params[name])
        narrow = jax.tree.map(lambda block: block.astype(dtype), result)
        self.made.append(Made(name, first, last, values, narrow))
        return result

    def result(self, name: str, values: jax.Array, gates: slice | None, add: tuple[jax.Array, ...] | None) -> Any:
        """What the next product gives."""
        return super().__call__(name, values, gates=gates, add=add)


@dataclasses.dataclass(frozen=True)
class KnownProducts(RecordedProducts):
    """The products of one step whose results are known."""

    known: list = dataclasses.field(default_factory=list)

    def result(self, name: str, values: jax.Array, gates: slice | None, add: tuple[jax.Array, ...] | None) -> Any:
        kernel = columns(self.cell, self.params, name, gates)
        return _known_product(values, kernel, add, self.known[len(self.made)])


class DenseProducts(MatrixProducts):
    """The products of many steps at once, with gradients in the form that XLA computes fastest."""

    def multiply(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        return _dense(values, kernel)


def kernel_gradients(cell: Cell, totals: Any, params: Any, made: list[Made], d_results: list) -> Any:
    """The gradients of parameters, `totals`, with those that the kernels get from the products of all steps."""
    kernels = {one.name: at_least_float32(totals[one.name]) for one in made}
    for one, d_result in zip(made, d_results, strict=True):
        d_result = d_result if one.gates is None else jnp.concatenate(d_result, axis=-1)
        kernel = columns(cell, params, one.name, one.gates)
        taken = column_slice(cell, params[one.name], one.gates)
        gradient = _kernel_gradient(one.values, d_result, kernel)
        kernels[one.name] = kernels[one.name].at[..., taken].add(gradient)
    narrow = {name: total.astype(params[name].dtype) for name, total in kernels.items()}
    return {**totals, **narrow} if narrow else totals


def _kernel_gradient(values: jax.Array, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of `kernel` in `multiply(values, kernel)`: one product over all leading axes, in at least float32.

    What `jax.grad` makes of a matrix product transposes the larger factor first; on the CPU that took twice as long.
    """
    if kernel.ndim > 2:
        return convolution.kernel_gradient(values, gradient, kernel.shape[:-2])
    axes = tuple(range(values.ndim - 1))
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    return jax.lax.dot_general(values, gradient, ((axes, axes), ((), ())), preferred_element_type=wide)


def _values_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of `values` in `multiply(values, kernel)`, for a matrix without a transposed copy of it."""
    if kernel.ndim > 2:
        return convolution.values_gradient(gradient, kernel)
    return jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())))


@jax.custom_vjp
def _dense(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`multiply(values, kernel)`, with any number of leading axes."""
    return multiply(values, kernel)


def _dense_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, kernel = saved
    d_kernel = _kernel_gradient(values, gradient, kernel).astype(kernel.dtype)
    return _values_gradient(gradient, kernel).astype(values.dtype), d_kernel


@jax.custom_vjp
def _known_product(values: jax.Array, kernel: jax.Array, add: tuple[jax.Array, ...] | None, result: Any) -> Any:
    """The product of `values` and `kernel`, plus `add`, known to be `result`.

    `values` and `add` get the gradients that they would get from the product. The kernel gets none: `result` gets the
    product's own, of which `kernel_gradients` makes the kernel's for many steps at once.
    """
    return _known_forward(values, kernel, add, result)[0]


def _known_forward(values: jax.Array, kernel: jax.Array, add: tuple[jax.Array, ...] | None, result: Any) -> tuple:
    like = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), (values, add, result))
    return result if add is None else jax.tree.map(at_least_float32, result), (kernel, like)


def _known_backward(saved: tuple, gradient: Any) -> tuple:
    kernel, (values, add, result) = saved
    d_result = jax.tree.map(lambda d, like: d.astype(like.dtype), gradient, result)
    d_add = None if add is None else jax.tree.map(lambda d, like: d.astype(like.dtype), gradient, add)
    whole = jnp.concatenate(d_result, axis=-1) if isinstance(d_result, tuple) else d_result
    return _values_gradient(whole, kernel).astype(values.dtype), None, d_add, d_result


_dense.defvjp(lambda values, kernel: (multiply(values, kernel), (values, kernel)), _dense_backward)
_known_product.defvjp(_known_forward, _known_backward)
