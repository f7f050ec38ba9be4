"""The real Keras, on JAX: LSTM, GRU in both conventions, SimpleRNN, with masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Elman
from tests.compare import assert_close, normal
from tests.peers.peer import peer
from tests.tiers import tiers

keras = peer("keras")

B, T, I, H = 4, 7, 5, 6

CELLS = {
    "lstm": (LSTM(H), lambda **options: keras.layers.LSTM(H, **options)),
    "gru_reset_after": (GRU(H), lambda **options: keras.layers.GRU(H, reset_after=True, **options)),
    "gru_reset_before": (
        GRU(H, reset_after=False),
        lambda **options: keras.layers.GRU(H, reset_after=False, **options),
    ),
    "simple_rnn": (Elman(H), lambda **options: keras.layers.SimpleRNN(H, **options)),
}


def reset_first(blocks):
    """Keras's z, r, n in the order r, z, n, along the last axis."""
    z, r, n = jnp.split(blocks, 3, axis=-1)
    return jnp.concatenate([r, z, n], axis=-1)


def params_from_keras(cell, weights):
    kernel, recurrent_kernel, bias = weights
    if not isinstance(cell, GRU):
        return {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    params = {"kernel": reset_first(kernel), "recurrent_kernel": reset_first(recurrent_kernel)}
    if not cell.reset_after:
        return params | {"bias": reset_first(bias)}
    outside, inside = reset_first(bias)
    gates_only = jnp.arange(3 * H) < 2 * H
    return params | {"bias": outside + jnp.where(gates_only, inside, 0), "recurrent_bias": inside[2 * H :]}


@pytest.mark.parametrize("masked", tiers([False, True], {True}), ids=["full", "masked"])
@pytest.mark.parametrize("name", CELLS)
def test_agrees(name, masked):
    cell, make = CELLS[name]
    layer = make(return_sequences=True, return_state=True, zero_output_for_mask=True)
    inputs = normal(0, B, T, I)
    layer.build(inputs.shape)
    weights = [jnp.asarray(normal(k + 1, *w.shape)) for k, w in enumerate(layer.trainable_variables)]
    unused = list(layer.non_trainable_variables)
    mask = np.random.default_rng(5).random((B, T)) < 0.6 if masked else None
    cotangent = normal(9, B, T, H)

    def theirs(weights, inputs):
        (outputs, *state), _ = layer.stateless_call(weights, unused, inputs, mask=mask)
        return jnp.sum(outputs * cotangent) + jnp.sum(state[0] ** 2), (list(state), outputs)

    def ours(weights, inputs):
        state, outputs = flaxrnn.scan(cell, params_from_keras(cell, weights), inputs, mask=mask)
        return jnp.sum(outputs * cotangent) + jnp.sum(state[0] ** 2), (list(state), outputs)

    expected = jax.grad(theirs, argnums=(0, 1), has_aux=True)(weights, inputs)
    assert_close(jax.grad(ours, argnums=(0, 1), has_aux=True)(weights, inputs), expected)
