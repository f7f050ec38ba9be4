"""A sequence that comes bit by bit gives what the whole gives, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack
from flaxrnn.cells import GRU, LSTM, Zoneout
from tests.compare import assert_close, assert_equal, normal, random_params
from tests.every import CELLS
from tests.own_cell import Leaky
from tests.tiers import tiers

B, T, I = 3, 12, 4
INPUTS = jnp.asarray(normal(0, B, T, I))
CHUNKS = {"one step": [1] * T, "uneven": [5, 1, 4, 2], "halves": [6, 6], "with empty ones": [0, 7, 0, 5, 0]}

LAYERS = {name: RNN(cell) for name, cell in CELLS.items()} | {
    "own": RNN(Leaky(5)),
    "zoneout": RNN(Zoneout(LSTM(5), 0.1, 0.2)),
    "layer_norm": RNN(LSTM(5, layer_norm=True, learn_initial_state=True)),
    "stack": Stack([RNN(LSTM(5)), RNN(GRU(5)), RNN(LSTM(5))]),
    "residual stack": Stack([RNN(LSTM(5)), RNN(GRU(5)), RNN(LSTM(5))], residual=True),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", tiers(LAYERS, {"lstm_everything", "own", "layer_norm", "residual stack"}))
def test_chunks_equal_the_whole_to_the_last_bit(name, compiled):
    layer = LAYERS[name]
    params = random_params(layer, I)
    lengths = np.array([12, 7, 0])
    mask = np.arange(T) < lengths[:, None]

    def stream(params, inputs, mask, state):
        return layer.stream(params, state, inputs, mask=mask, strategy="plain")

    stream = jax.jit(stream) if compiled else stream
    expected = layer.apply(params, INPUTS, mask=mask, strategy="plain")
    for sizes in CHUNKS.values():
        state, parts, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            state, outputs = stream(params, INPUTS[:, part], mask[:, part], state)
            parts.append(outputs)
            start += size
        streamed = state, jnp.concatenate(parts, axis=1)
        if compiled and name == "residual stack":
            # around a single step XLA joins a product and the sum after it in one rounding
            assert_close(streamed, expected, rtol=3e-7)
        else:
            assert_equal(streamed, expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            Bidirectional(GRU(4), GRU(4)),
            "a Bidirectional layer cannot stream: its backward cell begins with the last step",
        ),
        (Stack([RNN(GRU(4)), Bidirectional(GRU(4), GRU(4))]), "a Bidirectional layer cannot stream"),
        (RNN(GRU(4), reverse=True), "a layer with reverse=True cannot stream"),
    ],
)
def test_what_reads_backwards_refuses(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.stream(layer.init(jax.random.key(0), I), None, INPUTS)


def test_last():
    layer = RNN(LSTM(5))
    params, lengths = random_params(layer, I), np.array([12, 7, 0])
    state, outputs = layer.apply(params, INPUTS, lengths=lengths)
    assert_equal(flaxrnn.last(outputs, lengths), state.hidden)
    assert_equal(jax.jit(flaxrnn.last)(outputs, lengths), state.hidden)
    assert_equal(flaxrnn.last(outputs), outputs[:, -1])
    mask = np.zeros((B, T), bool)
    mask[0, 3] = mask[1, [2, 9]] = True
    assert_equal(flaxrnn.last(INPUTS, mask=mask), jnp.stack([INPUTS[0, 3], INPUTS[1, 9], jnp.zeros(I)]))
    assert_equal(flaxrnn.last(INPUTS, np.array([12, 5, 1]), mask=mask)[1], INPUTS[1, 2])
    assert_equal(flaxrnn.last(INPUTS[0]), INPUTS[0, -1])
    assert_equal(flaxrnn.last(INPUTS[:, :0]), jnp.zeros((B, I)))
    noisy = INPUTS.at[1, 7:].set(jnp.nan)
    gradient = jax.grad(lambda x: jnp.sum(flaxrnn.last(x, lengths)))(noisy)
    assert np.all(np.isfinite(gradient))
