"""The gated recurrent unit, and the minimal gated unit, which has one gate for its two."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike

from flaxrnn.cells.base import HiddenState, Params, Product, at_least_float32
from flaxrnn.cells.gated import GatedCell, masked, standardize
from flaxrnn.checks import check_key


@dataclasses.dataclass(frozen=True, repr=False)
class ResetCell(GatedCell):
    """A cell whose first gate resets what its last block, the candidate, sees of the hidden state.

    With `reset_after` the gate acts on `h W_n + recurrent_bias`: one matrix product a step. Without, it acts on
    h itself, and `(reset * h) W_n` is a second product, which must wait for the first.
    """

    reset_after: bool = True

    drops_candidate = True

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check_key(key)
        base_key, bias_key = jax.random.split(key)
        params = super().init(base_key, input_size, dtype)
        if self.reset_after:
            params["recurrent_bias"] = self.bias_init(bias_key, (self.hidden_size,)).astype(dtype)
        return params

    def recur(
        self, params: Params, state: HiddenState, projected: jax.Array, product: Product = jnp.matmul
    ) -> tuple[HiddenState, jax.Array]:
        if self.reset_after:
            return super().recur(params, state, projected, product)
        kernel, hidden = params["recurrent_kernel"], masked(params, "hidden_mask", state.hidden)
        gates = product(hidden, kernel[:, : -self.hidden_size])
        seen = at_least_float32(gates)
        if self.layer_norm:
            seen = standardize(seen) * params["recurrent_scale"][: -self.hidden_size]
        first = slice(None, self.hidden_size)
        reset = sigmoid(at_least_float32(projected)[..., first] + seen[..., first]).astype(hidden.dtype)
        candidate = product(reset * hidden, kernel[:, -self.hidden_size :])
        recurrent = jnp.concatenate([gates, candidate], axis=-1)
        return self.apply_gate(params, state, projected, recurrent)

    def normalize(self, blocks: jax.Array, scale: jax.Array) -> jax.Array:
        """The gates together, the candidate alone, since its product may come later."""
        gates, candidate = jnp.split(blocks, [blocks.shape[-1] - self.hidden_size], axis=-1)
        return jnp.concatenate([standardize(gates), standardize(candidate)], axis=-1) * scale

    def candidate(self, params: Params, reset: jax.Array, projected: jax.Array, recurrent: jax.Array) -> jax.Array:
        """The candidate, from its own blocks `[*batch, hidden_size]`."""
        if self.reset_after:
            recurrent = reset * (recurrent + params["recurrent_bias"])
        return self.drop_candidate(params, jnp.tanh(projected + recurrent))


@dataclasses.dataclass(frozen=True, repr=False)
class GRU(ResetCell):
    """The gated recurrent unit.

    One step::

        r = sigmoid(x U_r + b_r + h W_r)             reset gate
        z = sigmoid(x U_z + b_z + h W_z)             update gate
        n = tanh(x U_n + b_n + r * (h W_n + b'))     candidate, reset_after=True
        n = tanh(x U_n + b_n + (r * h) W_n)          candidate, reset_after=False
        h' = z * h + (1 - z) * n

    The blocks of `params["kernel"]` (U), `params["recurrent_kernel"]` (W) and `params["bias"]` (b) stand in the
    order r, z, n; b' is `params["recurrent_bias"]`, `[H]`.

    Attributes:
      hidden_size: H, how many features the hidden state and the output have.
      reset_after: where the reset gate acts. False is the paper's unit. True, after the matrix product, is
        cuDNN's, torch's and Flax's, and faster: a step has one matrix product and not two in a row.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (12,), 'kernel': (3, 12), 'recurrent_bias': (4,), 'recurrent_kernel': (4, 12)}
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 5, 3]))
      >>> outputs.shape
      (2, 5, 4)

    References:
      Cho et al., `Learning phrase representations using RNN encoder-decoder for statistical machine translation
      <https://arxiv.org/abs/1406.1078v3>`_, 2014, equations 5 to 8.

    How it differs from other frameworks:
      Torch and Flax write h' = (1 - z) n + z h, which is the same. Keras and Haiku order the gates z, r, n, and
      Haiku swaps z and 1 - z. TF1, Haiku and the paper in its third version reset before the product.
    """

    @property
    def gates(self) -> tuple[str, ...]:
        return ("reset", "update", "candidate")

    def gate(
        self, params: Params, state: HiddenState, projected: jax.Array, recurrent: jax.Array
    ) -> tuple[HiddenState, jax.Array]:
        projected_r, projected_z, projected_n = self.split(projected)
        recurrent_r, recurrent_z, recurrent_n = self.split(recurrent)
        r = sigmoid(projected_r + recurrent_r)
        z = sigmoid(projected_z + recurrent_z)
        n = self.candidate(params, r, projected_n, recurrent_n)
        hidden = z * state.hidden + (1 - z) * n
        return HiddenState(hidden), hidden


@dataclasses.dataclass(frozen=True, repr=False)
class MGU(ResetCell):
    """The minimal gated unit: a GRU whose one gate both resets and updates.

    One step::

        f = sigmoid(x U_f + b_f + h W_f)             forget gate
        n = tanh(x U_n + b_n + f * (h W_n + b'))     candidate, reset_after=True
        n = tanh(x U_n + b_n + (f * h) W_n)          candidate, reset_after=False
        h' = (1 - f) * h + f * n

    The blocks of `params["kernel"]` (U), `params["recurrent_kernel"]` (W) and `params["bias"]` (b) stand in the
    order f, n; b' is `params["recurrent_bias"]`, `[H]`.

    Attributes:
      hidden_size: H, how many features the hidden state and the output have.
      reset_after: where the gate acts on the candidate. False is the paper's unit; True is faster, as in `GRU`.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.MGU(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (8,), 'kernel': (3, 8), 'recurrent_bias': (4,), 'recurrent_kernel': (4, 8)}

    References:
      Zhou et al., `Minimal gated unit for recurrent neural networks <https://arxiv.org/abs/1603.09420>`_, 2016,
      equations 5 to 7.

    How it differs from other frameworks:
      Flax's `MGUCell` has h' = (1 - f) n + f h, the other way round than the paper: there, an open gate keeps the
      hidden state and a closed one forgets it. No change of weights turns the one into the other.
    """

    @property
    def gates(self) -> tuple[str, ...]:
        return ("forget", "candidate")

    def gate(
        self, params: Params, state: HiddenState, projected: jax.Array, recurrent: jax.Array
    ) -> tuple[HiddenState, jax.Array]:
        projected_f, projected_n = self.split(projected)
        recurrent_f, recurrent_n = self.split(recurrent)
        f = sigmoid(projected_f + recurrent_f)
        n = self.candidate(params, f, projected_n, recurrent_n)
        hidden = (1 - f) * state.hidden + f * n
        return HiddenState(hidden), hidden
