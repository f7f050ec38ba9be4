"""Checks of what is known only when a compiled program runs. They are off unless asked for, and cost nothing then."""

import jax
import jax.numpy as jnp
from jax.experimental import checkify


def check_lengths(lengths: jax.Array, time: int) -> None:
    """An error at run time, by `jax.experimental.checkify`, unless the lengths are from 0 to `time`."""
    wrong = (lengths < 0) | (lengths > time)
    first = jnp.ravel(lengths)[jnp.argmax(jnp.ravel(wrong))] if lengths.size else jnp.zeros((), lengths.dtype)
    message = f"lengths has {{first}} in it, but inputs has {time} time steps: pass lengths from 0 to {time}"
    checkify.check(~jnp.any(wrong), message, first=first)
