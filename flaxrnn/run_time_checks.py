"""Checks of what is known only when a compiled program runs. They are off unless asked for, and cost nothing then."""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

_on = contextvars.ContextVar("flaxrnn_run_time_checks", default=False)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled, with an error where lengths turn out to be out of range.

    Under `jit` the values of lengths are not known when a call is checked, and out of range they are clamped: above the
    number of steps they count as that number, below zero as zero. While you look for a mistake you may want an error
    instead.

    Args:
      function: what calls flaxrnn, of arrays and pytrees of them; the plain function, not what `jax.jit` made of it.

    Returns:
      A compiled function of the same arguments and results.

    Raises:
      TypeError: if `function` has been through `jax.jit`: it may have been traced without the checks already.
      jax.experimental.checkify.JaxRuntimeError: by the function returned, if a length is out of range.

    Example:
      >>> import jax, flaxrnn
      >>> import jax.numpy as jnp
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> def run(lengths):
      ...     return flaxrnn.scan(cell, params, jnp.ones([2, 5, 3]), lengths=lengths)
      >>> flaxrnn.checked(run)(jnp.array([5, 6]))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      jax._src.checkify.JaxRuntimeError: lengths has 6 in it, but inputs has 5 time steps: pass lengths from 0 to 5 ...
    """
    if hasattr(function, "lower"):
        raise TypeError("checked was given a function that jax.jit made: pass the plain function, it is compiled here")

    def with_checks(*args: Any, **kwargs: Any) -> Any:
        token = _on.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            _on.reset(token)

    run = jax.jit(checkify.checkify(with_checks))

    @functools.wraps(function)
    def throwing(*args: Any, **kwargs: Any) -> Any:
        error, result = run(*args, **kwargs)
        error.throw()
        return result

    return throwing


def are_on() -> bool:
    """Whether the code that is being traced runs under `checked`."""
    return _on.get()


def check_lengths(lengths: jax.Array, time: int) -> None:
    """An error at run time unless the lengths are from 0 to `time`."""
    outside = jnp.where(lengths < 0, lengths, jnp.maximum(lengths, time))
    worst = jnp.where(jnp.any(lengths < 0), jnp.min(outside, initial=0), jnp.max(outside, initial=time))
    message = f"lengths has {{worst}} in it, but inputs has {time} time steps: pass lengths from 0 to {time}"
    checkify.check(jnp.all((lengths >= 0) & (lengths <= time)), message, worst=worst)
