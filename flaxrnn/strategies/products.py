"""Matrix products whose gradients are asked of XLA in the form that it computes fastest."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def dense(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`values @ kernel`, with any number of leading axes."""
    return values @ kernel


@jax.custom_vjp
def known_product(values: jax.Array, kernel: jax.Array, result: jax.Array) -> jax.Array:
    """`values @ kernel`, known to be `result`.

    To `values` goes the gradient that the product gives them. The kernel gets none: `result` gets the product's own,
    of which `kernel_gradient` makes the kernel's for many steps at once.
    """
    del values, kernel
    return result


def kernel_gradient(values: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of `kernel` in `values @ kernel`: one product over all leading axes, summed in at least float32.

    What `jax.grad` makes of it transposes the larger of the two first; on the CPU that took twice as long.
    """
    axes = tuple(range(values.ndim - 1))
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    return jax.lax.dot_general(values, gradient, ((axes, axes), ((), ())), preferred_element_type=wide)


def values_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of `values` in `values @ kernel`, without a transposed copy of the kernel."""
    return jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())))


def _dense_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, kernel = saved
    d_kernel = kernel_gradient(values, gradient).astype(kernel.dtype)
    return values_gradient(gradient, kernel).astype(values.dtype), d_kernel


def _known_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    kernel, like_values = saved
    return values_gradient(gradient, kernel).astype(like_values.dtype), None, gradient


dense.defvjp(lambda values, kernel: (values @ kernel, (values, kernel)), _dense_backward)
known_product.defvjp(lambda values, kernel, result: (result, (kernel, jnp.zeros((), values.dtype))), _known_backward)
