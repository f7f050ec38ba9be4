"""`last`: the output of the last valid step of each sequence."""

import jax
import jax.numpy as jnp

from flaxrnn import checks
from flaxrnn.axes import Axes
from flaxrnn.strategies.base import select


def last(
    outputs: jax.Array, lengths: jax.Array | None = None, *, mask: jax.Array | None = None, feature_axes: int = 1
) -> jax.Array:
    """The output of the last valid step of each sequence.

    For a layer that reads forwards and whose output is its hidden state this is, up to XLA's rounding of the last bit,
    the final `state.hidden`. It also
    serves where that is not at hand: for a `Stack` with residual connections, say, or for what a dense layer made of
    each step. Where a layer reads backwards it has not read everything at the last step: there, take its state.

    Args:
      outputs: `[*batch, time, features]`.
      lengths: `[*batch]` integers, how many steps of each sequence are valid; None if all are.
      mask: `[*batch, time]` booleans, False at the steps that are not valid. With `lengths` a step must be valid by
        both.
      feature_axes: how many axes the features of one step have, `cell.feature_axes`: 3 for
        `[*batch, time, height, width, channels]`.

    Returns:
      `[*batch, features]`; zeros for a sequence without a valid step.

    Raises:
      TypeError, ValueError: if the arguments do not fit each other; the message says what to pass.

    Example:
      >>> import jax.numpy as jnp, flaxrnn
      >>> outputs = jnp.arange(6.0).reshape(2, 3, 1)
      >>> print(flaxrnn.last(outputs, jnp.array([3, 1]))[:, 0])
      [2. 3.]
    """
    axes = Axes(feature_axes)
    checks.check_inputs(outputs, axes, "outputs")
    checks.check_lengths(lengths, outputs.shape, axes)
    checks.check_marks("mask", mask, outputs.shape, axes)
    steps, time_axis = axes.steps(outputs.shape), axes.time(outputs.shape)
    is_last = jnp.arange(steps[-1]) == last_valid_step(steps, lengths, mask)[..., None]
    return jnp.sum(select(is_last, outputs, jnp.zeros_like(outputs)), axis=time_axis)


def last_valid_step(shape: tuple[int, ...], lengths: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """The last valid one of the steps of `shape` `[*batch, time]`, `[*batch]`, counted from 0; -1 if there is none."""
    steps = jnp.arange(shape[-1])
    valid = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    if lengths is not None:
        valid &= steps < jnp.asarray(lengths)[..., None]
    return jnp.max(jnp.where(valid, steps, -1), axis=-1, initial=-1)
