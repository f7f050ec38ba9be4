"""The real Flax, linen and nnx."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Elman
from tests.compare import assert_close, normal
from tests.tiers import tiers

B, T, I, H = 4, 7, 5, 6


def lstm_params(tree):
    def gates(prefix, name):
        return jnp.concatenate([tree[prefix + gate][name] for gate in "ifgo"], axis=-1)

    return {"kernel": gates("i", "kernel"), "recurrent_kernel": gates("h", "kernel"), "bias": gates("h", "bias")}


def gru_params(tree):
    return {
        "kernel": jnp.concatenate([tree["i" + gate]["kernel"] for gate in "rzn"], axis=-1),
        "recurrent_kernel": jnp.concatenate([tree["h" + gate]["kernel"] for gate in "rzn"], axis=-1),
        "bias": jnp.concatenate([tree["i" + gate]["bias"] for gate in "rzn"]),
        "recurrent_bias": tree["hn"]["bias"],
    }


def elman_params(tree):
    return {
        "kernel": tree["i"]["kernel"],
        "recurrent_kernel": tree["h"]["kernel"],
        "bias": tree["i"]["bias"],
    }


LINEN = {
    "LSTMCell": (LSTM(H), nn.LSTMCell(H), lstm_params),
    "OptimizedLSTMCell": (LSTM(H), nn.OptimizedLSTMCell(H), lstm_params),
    "GRUCell": (GRU(H), nn.GRUCell(H), gru_params),
    "SimpleCell": (Elman(H), nn.SimpleCell(H), elman_params),
}


@pytest.mark.parametrize("reverse", tiers([False, True], {True}))
@pytest.mark.parametrize("with_lengths", tiers([False, True], {True}))
@pytest.mark.parametrize("name", LINEN)
def test_linen(name, with_lengths, reverse):
    cell, linen_cell, convert = LINEN[name]
    module = nn.RNN(linen_cell, return_carry=True, reverse=reverse, keep_order=True)
    inputs = normal(0, B, T, I)
    variables = module.init(jax.random.key(0), inputs)
    variables = jax.tree.map(lambda x: normal(x.size, *x.shape), variables)
    lengths = np.array([4, 7, 1, 5]) if with_lengths else None
    valid = np.arange(T) < (lengths if with_lengths else np.full(B, T))[:, None]
    cotangent = normal(9, B, T, H) * valid[..., None]  # Flax's outputs in the padding are not zero

    def theirs(variables, inputs):
        carry, outputs = module.apply(variables, inputs, seq_lengths=lengths)
        state = [carry[1], carry[0]] if isinstance(carry, tuple) else [carry]
        return jnp.sum(outputs * cotangent) + jnp.sum(state[0] ** 2), (state, outputs * valid[..., None])

    def ours(variables, inputs):
        (tree,) = variables["params"].values()
        state, outputs = flaxrnn.scan(cell, convert(tree), inputs, lengths=lengths, reverse=reverse)
        return jnp.sum(outputs * cotangent) + jnp.sum(state[0] ** 2), (list(state), outputs)

    expected = jax.grad(theirs, argnums=(0, 1), has_aux=True)(variables, inputs)
    assert_close(jax.grad(ours, argnums=(0, 1), has_aux=True)(variables, inputs), expected)


def test_nnx_lstm():
    module = nnx.RNN(nnx.OptimizedLSTMCell(I, H, rngs=nnx.Rngs(0)), return_carry=True, rngs=nnx.Rngs(0))
    inputs = normal(0, B, T, I)
    (cell_state, hidden), outputs = module(inputs)
    params = {
        "kernel": module.cell.dense_i.kernel[...],
        "recurrent_kernel": module.cell.dense_h.kernel[...],
        "bias": module.cell.dense_h.bias[...],
    }
    state, ours = flaxrnn.scan(LSTM(H), params, inputs)
    assert_close((ours, state.hidden, state.cell), (outputs, hidden, cell_state))
