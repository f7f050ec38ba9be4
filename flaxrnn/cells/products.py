"""How a cell asks for its matrix products: by the name of the kernel."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flaxrnn.cells.convolution import convolve


class Product(Protocol):
    """What `project` and `recur` call for a matrix product, or a convolution, with one of the cell's parameters.

    Since the kernel is named, a strategy knows which parameter is multiplied: it can keep the result for the backward
    pass, or form the kernel's gradient in one product over all time steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from flaxrnn.cells import GRU, MatrixProducts
      >>> cell = GRU(2)
      >>> product = MatrixProducts(cell, {"recurrent_kernel": jnp.arange(12.0).reshape(2, 6)})
      >>> hidden = jnp.array([1.0, 0.0])
      >>> print(product("recurrent_kernel", hidden))
      [0. 1. 2. 3. 4. 5.]
      >>> [block.tolist() for block in product("recurrent_kernel", hidden, gates=slice(0, 2))]
      [[0.0, 1.0], [2.0, 3.0]]
    """

    def __call__(
        self,
        name: str,
        values: jax.Array,
        *,
        gates: slice | None = None,
        add: tuple[jax.Array, ...] | None = None,
    ) -> Any:
        """Multiplies `values` by the parameter `name`.

        Args:
          name: the kernel's name in `params`: a matrix `[features, columns]`, or for a convolution
            `[*window, features, columns]`.
          values: `[*batch, features]`, for a convolution `[*batch, *spatial, features]`.
          gates: which of the kernel's blocks of columns to take, one block for each of the cell's gates, such as
            `slice(None)` for all. None is for a kernel without such blocks.
          add: arrays to add to the blocks, `[*batch, hidden_size]` each, in at least float32.

        Returns:
          With `gates`, a tuple of one array `[*batch, hidden_size]` for each gate; without, `[*batch, columns]`. What a
          convolution gives has the spatial axes of `values`.
        """


@dataclasses.dataclass(frozen=True)
class MatrixProducts:
    """The products of one step, made one by one by `@`, as `Cell.step` makes them."""

    cell: Any
    params: Any

    def __call__(
        self,
        name: str,
        values: jax.Array,
        *,
        gates: slice | None = None,
        add: tuple[jax.Array, ...] | None = None,
    ) -> Any:
        kernel = columns(self.cell, self.params, name, gates)
        blocks = add_blocks(split(self.cell, self.multiply(values, kernel), gates), add)
        return blocks[0] if gates is None else blocks

    def multiply(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        """`values @ kernel`, or their convolution; see `multiply`."""
        return multiply(values, kernel)


def multiply(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`values @ kernel` for a matrix; their convolution for a kernel `[*window, in, out]`."""
    return values @ kernel if kernel.ndim == 2 else convolve(values, kernel)


def columns(cell: Any, params: Any, name: str, gates: slice | None) -> jax.Array:
    """The columns of the kernel `name` that belong to some of the cell's gates; all of them if `gates` is None."""
    kind = type(cell).__name__
    if name not in params:
        raise ValueError(f"{kind} asks for a product with {name!r}, but its parameters are {', '.join(params)}")
    kernel = params[name]
    if kernel.ndim < 2:
        raise ValueError(
            f"{kind} asks for a product with {name!r}, {list(kernel.shape)}: a kernel is a matrix, or "
            "[*window, in, out] for a convolution"
        )
    taken = column_slice(cell, kernel, gates)
    return kernel if taken == slice(0, kernel.shape[-1]) else kernel[..., taken]


def column_slice(cell: Any, kernel: jax.Array, gates: slice | None) -> slice:
    """Which columns of a kernel belong to some of the cell's gates."""
    if gates is None:
        return slice(0, kernel.shape[-1])
    width = kernel.shape[-1] // len(cell.gates)
    start, stop, _ = gates.indices(len(cell.gates))
    return slice(start * width, stop * width)


def split(cell: Any, result: jax.Array, gates: slice | None) -> tuple[jax.Array, ...]:
    """One array for each of some gates, out of the columns of all of them."""
    if gates is None:
        return (result,)
    return tuple(jnp.split(result, len(cell.gates[gates]), axis=-1))


def add_blocks(blocks: tuple[jax.Array, ...], add: tuple[jax.Array, ...] | None) -> tuple[jax.Array, ...]:
    """The sum of the blocks of a product and what the cell adds to them, if anything."""
    if add is None:
        return blocks
    return tuple(at_least_float32(a) + at_least_float32(b) for a, b in zip(add, blocks, strict=True))


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32 if it is of floating-point numbers that are narrower, else `x` itself."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if jnp.issubdtype(x.dtype, jnp.floating) else x
