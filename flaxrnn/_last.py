"""`last`: the output of the last valid step of each sequence."""

import jax
import jax.numpy as jnp

from flaxrnn import checks


def last(outputs: jax.Array, lengths: jax.Array | None = None, *, mask: jax.Array | None = None) -> jax.Array:
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
    checks.check_inputs(outputs, "outputs")
    time = outputs.shape[-2]
    checks.check_lengths(lengths, outputs.shape[:-2], time)
    checks.check_marks("mask", mask, outputs.shape[:-1])
    is_last = jnp.arange(time) == last_valid_step(outputs.shape[:-1], lengths, mask)[..., None]
    return jnp.sum(jnp.where(is_last[..., None], outputs, 0), axis=-2)


def last_valid_step(shape: tuple[int, ...], lengths: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """The last valid one of the steps of `shape` `[*batch, time]`, `[*batch]`, counted from 0; -1 if there is none."""
    steps = jnp.arange(shape[-1])
    valid = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    if lengths is not None:
        valid &= steps < jnp.asarray(lengths)[..., None]
    return jnp.max(jnp.where(valid, steps, -1), axis=-1, initial=-1)
