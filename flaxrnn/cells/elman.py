"""The simple recurrent network of Elman (1990)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import HiddenState, Params
from flaxrnn.cells.gated import GatedCell, Gates


def tanh(x: jax.Array) -> jax.Array:
    """`jnp.tanh`, which cannot be pickled itself."""
    return jnp.tanh(x)


def relu(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`, which cannot be pickled itself."""
    return jax.nn.relu(x)


@dataclasses.dataclass(frozen=True, repr=False)
class Elman(GatedCell):
    """The simple recurrent network: the new hidden state is a squashed sum of the input and the old one.

    One step::

        h' = activation(x U + b + h W)

    U is `params["kernel"]`, W `params["recurrent_kernel"]` and b `params["bias"]`.

    Attributes:
      hidden_size: H, how many features the hidden state and the output have.
      activation: any elementwise function, such as `jax.nn.relu`.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.Elman(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (4,), 'kernel': (3, 4), 'recurrent_kernel': (4, 4)}
      >>> state, output = cell.step(params, cell.initial_state(), jax.numpy.ones(3))
      >>> output.shape
      (4,)

    References:
      Elman, `Finding structure in time <https://doi.org/10.1207/s15516709cog1402_1>`_, 1990, section 2.

    How it differs from other frameworks:
      `torch.nn.RNN` has two biases, which add up to this one. Haiku's `VanillaRNN` uses ReLU.
    """

    activation: Callable[[jax.Array], jax.Array] = tanh

    gates = ("candidate",)
    drops_candidate = True
    sums_only = True

    def gate(
        self, params: Params, state: HiddenState, projected: Gates, recurrent: Gates
    ) -> tuple[HiddenState, jax.Array]:
        hidden = self.drop_candidate(params, self.activation(projected[0] + recurrent[0]))
        return HiddenState(hidden), hidden
