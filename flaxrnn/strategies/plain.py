"""The reference, `lax.scan` over `step`: kept simple, since every other strategy is tested against it."""

import dataclasses

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import State
from flaxrnn.strategies.base import Sequence, Steps, Strategy, guarded


@dataclasses.dataclass(frozen=True)
class Plain(Strategy):
    """Runs one step after the other, for any cell, with every kind of derivative.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> inputs = jax.numpy.ones([2, 5, 3])
      >>> state, outputs = flaxrnn.scan(cell, params, inputs, strategy=flaxrnn.strategies.Plain())
    """

    name = "plain"

    def why_not(self, sequence: Sequence) -> str | None:
        del sequence
        return None

    def describe(self, sequence: Sequence) -> str:
        del sequence
        return "one step after the other"

    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        cell, params, state, reset_state, steps, time_axis, reverse, unroll = sequence

        def body(state: State, now: Steps) -> tuple[State, jax.Array]:
            return guarded(
                lambda before: cell.step(params, before, now.inputs), state, reset_state, now.mask, now.resets
            )

        state, outputs = jax.lax.scan(body, state, steps, reverse=reverse, unroll=unroll)
        return state, jnp.moveaxis(outputs, 0, time_axis)
