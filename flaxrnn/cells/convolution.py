"""The convolution of a cell, and its gradients with respect to values and kernel.

XLA's CPU compiler has fast code for only one layout of convolutions: batch first, channels last, the kernel as
`[*window, in, out]`. It converts others to that one, but not inside a loop: there, the gradients that `jax.grad` makes
took up to sixty times as long. So on the CPU the gradients are written in that layout; elsewhere they are JAX's own,
whose layouts the compilers for GPU and TPU handle well.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def convolve(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of `values`, `[*batch, *spatial, in]`, with `kernel`, `[*window, in, out]`.

    The window moves one position at a time, with zeros around the edges: the result is `[*batch, *spatial, out]`.
    A window of even size reaches one position further right and down than left and up ("SAME" padding).
    """
    return _convolve(values, kernel, [((size - 1) // 2, size // 2) for size in kernel.shape[:-2]])


def values_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of `values` in `convolve(values, kernel)`, from that of the result."""
    if jax.default_backend() != "cpu":
        like = jax.ShapeDtypeStruct((*gradient.shape[:-1], kernel.shape[-2]), gradient.dtype)
        return jax.linear_transpose(lambda values: convolve(values, kernel), like)(gradient)[0]
    window = kernel.shape[:-2]
    turned = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
    return _convolve(gradient, turned, [(size // 2, (size - 1) // 2) for size in window])


def kernel_gradient(values: jax.Array, gradient: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """The gradient of `kernel` in `convolve(values, kernel)`, summed over the batch in at least float32."""
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    if jax.default_backend() != "cpu":
        like = jax.ShapeDtypeStruct((*window, values.shape[-1], gradient.shape[-1]), wide)
        return jax.linear_transpose(lambda kernel: convolve(values, kernel), like)(gradient.astype(wide))[0]
    values, gradient = _flat_batch(values, len(window)), _flat_batch(gradient, len(window))
    spatial = range(1, 1 + len(window))
    result = _convolve(
        values.transpose(-1, *spatial, 0),  # channels take the place of the batch, and the batch that of channels
        gradient.transpose(*spatial, 0, -1),
        [((size - 1) // 2, size // 2) for size in window],
        wide,
    )
    return result.transpose(*spatial, 0, -1)


def _convolve(
    values: jax.Array, kernel: jax.Array, padding: list[tuple[int, int]], dtype: DTypeLike | None = None
) -> jax.Array:
    """The convolution of `values`, `[*batch, *spatial, in]`, with each spatial axis padded by zeros."""
    common = jnp.result_type(values, kernel)
    batch = values.shape[: -len(padding) - 1]
    axes = "DHW"[-len(padding) :]
    result = jax.lax.conv_general_dilated(
        _flat_batch(values, len(padding)).astype(common),
        kernel.astype(common),
        window_strides=(1,) * len(padding),
        padding=padding,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        preferred_element_type=dtype,
    )
    return result if len(batch) == 1 else result.reshape(*batch, *result.shape[1:])


def _flat_batch(values: jax.Array, spatial_axes: int) -> jax.Array:
    """`[*batch, *spatial, channels]` with one batch axis."""
    batch, image = values.shape[: -spatial_axes - 1], values.shape[-spatial_axes - 1 :]
    return values if len(batch) == 1 else values.reshape(math.prod(batch), *image)
