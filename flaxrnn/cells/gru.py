"""The gated recurrent unit, and the minimal gated unit, which has one gate for its two."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike

from flaxrnn.cells.base import HiddenState, Params
from flaxrnn.cells.gated import GatedCell, Gates, masked, normalize_together
from flaxrnn.cells.products import Product, at_least_float32
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
        if self.reset_after and self.use_bias:
            params["recurrent_bias"] = self.bias_init(bias_key, (self.hidden_size,)).astype(dtype)
        return params

    def recurrent(self, params: Params, state: HiddenState, projected: Gates, product: Product) -> Gates:
        if self.reset_after:
            return super().recurrent(params, state, projected, product)
        hidden = masked(params, "hidden_mask", state.hidden)
        gates = product("recurrent_kernel", hidden, gates=slice(0, -1))
        if self.layer_norm:
            gates = normalize_together(gates, params["recurrent_scale"][: -self.hidden_size])
        reset = sigmoid(at_least_float32(projected[0]) + at_least_float32(gates[0])).astype(hidden.dtype)
        candidate = product("recurrent_kernel", reset * hidden, gates=slice(-1, None))
        if self.layer_norm:
            candidate = normalize_together(candidate, params["recurrent_scale"][-self.hidden_size :])
        return gates + candidate

    def normalize(self, blocks: Gates, scale: jax.Array) -> Gates:
        """The gates together, the candidate alone, since its product may come later."""
        gates = normalize_together(blocks[:-1], scale[: -self.hidden_size])
        return gates + normalize_together(blocks[-1:], scale[-self.hidden_size :])


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

    gates = ("reset", "update", "candidate")

    def gate(
        self, params: Params, state: HiddenState, projected: Gates, recurrent: Gates
    ) -> tuple[HiddenState, jax.Array]:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = projected, recurrent
        if self.reset_after:
            h_n = sigmoid(x_r + h_r) * (h_n + params.get("recurrent_bias", 0.0))
        z = sigmoid(x_z + h_z)
        n = self.drop_candidate(params, jnp.tanh(x_n + h_n))
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

    gates = ("forget", "candidate")

    def gate(
        self, params: Params, state: HiddenState, projected: Gates, recurrent: Gates
    ) -> tuple[HiddenState, jax.Array]:
        (x_f, x_n), (h_f, h_n) = projected, recurrent
        f = sigmoid(x_f + h_f)
        if self.reset_after:
            h_n = f * (h_n + params.get("recurrent_bias", 0.0))
        n = self.drop_candidate(params, jnp.tanh(x_n + h_n))
        hidden = (1 - f) * state.hidden + f * n
        return HiddenState(hidden), hidden
