"""The real Haiku: its GRU resets before the product, as the paper does."""

import jax
import jax.numpy as jnp
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, MGU, Elman
from tests.compare import assert_close, normal
from tests.peers.peer import peer
from tests.tiers import tiers

hk = peer("haiku")

B, T, I, H = 4, 7, 5, 6


def lstm_params(weights):
    i, g, f, o = jnp.split(weights["lstm/linear"]["w"], 4, axis=1)
    kernel = jnp.concatenate([i, f, g, o], axis=1)
    i, g, f, o = jnp.split(weights["lstm/linear"]["b"], 4)
    return {"kernel": kernel[:I], "recurrent_kernel": kernel[I:], "bias": jnp.concatenate([i, f + 1, g, o])}


def gru_params(weights):
    """Haiku's z, r, n with h' = (1 - z) h + z n; ours is r, z, n with h' = z h + (1 - z) n."""

    def convert(blocks):
        z, r, n = jnp.split(blocks, 3, axis=-1)
        return jnp.concatenate([r, -z, n], axis=-1)

    gru = weights["gru"]
    return {"kernel": convert(gru["w_i"]), "recurrent_kernel": convert(gru["w_h"]), "bias": convert(gru["b"])}


def mgu_params(weights):
    """The weights of z are those of r: then Haiku's GRU is the minimal gated unit of the paper."""
    return {
        name: blocks[..., H:]
        for name, blocks in zip(("kernel", "recurrent_kernel", "bias"), tied(weights)["gru"].values(), strict=True)
    }


def tied(weights):
    gru = weights["gru"]
    return {"gru": {name: gru[name].at[..., :H].set(gru[name][..., H : 2 * H]) for name in ("w_i", "w_h", "b")}}


def elman_params(weights):
    return {
        "kernel": weights["vanilla_rnn/linear"]["w"],
        "recurrent_kernel": weights["vanilla_rnn/linear_1"]["w"],
        "bias": weights["vanilla_rnn/linear"]["b"] + weights["vanilla_rnn/linear_1"]["b"],
    }


CELLS = {
    "lstm": (LSTM(H), "LSTM", lstm_params),
    "gru": (GRU(H, reset_after=False), "GRU", gru_params),
    "mgu": (MGU(H, reset_after=False), "GRU", mgu_params),
    "vanilla_rnn": (Elman(H, activation=jax.nn.relu), "VanillaRNN", elman_params),
}


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm", "gru"}))
def test_agrees(name):
    cell, haiku_name, convert = CELLS[name]

    def unroll(inputs):
        core = getattr(hk, haiku_name)(H)
        return hk.dynamic_unroll(core, inputs, core.initial_state(B), time_major=False)

    model = hk.without_apply_rng(hk.transform(unroll))
    inputs = normal(0, B, T, I)
    weights = jax.tree.map(lambda x: jnp.asarray(normal(x.size, *x.shape)), model.init(jax.random.key(0), inputs))
    cotangent = normal(9, B, T, H)

    def theirs(weights, inputs):
        outputs, state = model.apply(tied(weights) if name == "mgu" else weights, inputs)
        return jnp.sum(outputs * cotangent), (jax.tree.leaves(state), outputs)

    def ours(weights, inputs):
        state, outputs = flaxrnn.scan(cell, convert(weights), inputs)
        return jnp.sum(outputs * cotangent), (jax.tree.leaves(state), outputs)

    expected = jax.grad(theirs, argnums=(0, 1), has_aux=True)(weights, inputs)
    assert_close(jax.grad(ours, argnums=(0, 1), has_aux=True)(weights, inputs), expected)
