"""A cell that a user wrote, as in the README and in docs/own_cells.md."""

import dataclasses

import jax.numpy as jnp

from flaxrnn import cells


@dataclasses.dataclass(frozen=True)
class Leaky(cells.GatedCell):
    """A leaky integrator (Jaeger 2001)."""

    leak: float = 0.1

    gates = ("candidate",)
    drops_candidate = True

    def gate(self, params, state, projected, recurrent):
        candidate = self.drop_candidate(params, jnp.tanh(projected[0] + recurrent[0]))
        hidden = (1 - self.leak) * state.hidden + self.leak * candidate
        return cells.HiddenState(hidden), hidden
