"""Layers: what they do with the cells that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack
from flaxrnn.cells import GRU, LSTM, Elman
from tests.compare import assert_close, assert_equal, normal, random_params, random_state

I = 3
LENGTHS = np.array([6, 2, 4])


def inputs():
    return jnp.asarray(normal(3, 3, 6, I))


@pytest.mark.parametrize("reverse", [False, True])
def test_rnn_is_scan(reverse):
    layer = RNN(LSTM(5), reverse)
    params, state = random_params(layer, I), random_state(layer, (3,))
    expected = flaxrnn.scan(layer.cell, params, inputs(), initial_state=state, lengths=LENGTHS, reverse=reverse)
    assert_equal(layer.apply(params, inputs(), initial_state=state, lengths=LENGTHS), expected)


@pytest.mark.parametrize(
    ("merge", "size", "merged"),
    [
        ("concat", 10, lambda f, b: np.concatenate([f, b], axis=-1)),
        ("sum", 5, np.add),
        ("mul", 5, np.multiply),
        ("mean", 5, lambda f, b: np.mean([f, b], axis=0)),
        (None, (5, 5), lambda f, b: (f, b)),
    ],
)
def test_bidirectional_merges(merge, size, merged):
    layer = Bidirectional(LSTM(5), GRU(5), merge=merge)
    params, (forward_state, backward_state) = random_params(layer, I), random_state(layer, (3,))
    state, outputs = layer.apply(params, inputs(), initial_state=(forward_state, backward_state), lengths=LENGTHS)
    first, forward = flaxrnn.scan(
        layer.forward, params["forward"], inputs(), initial_state=forward_state, lengths=LENGTHS
    )
    second, backward = flaxrnn.scan(
        layer.backward, params["backward"], inputs(), initial_state=backward_state, lengths=LENGTHS, reverse=True
    )
    assert_equal(state, (first, second))
    assert_close(outputs, merged(np.asarray(forward), np.asarray(backward)), rtol=1e-6)
    assert layer.output_size == size
    assert jax.tree.map(lambda o: o.shape[-1], outputs) == size


def test_bidirectional_of_two_sizes():
    layer = Bidirectional(LSTM(5), Elman(2))
    state, outputs = layer.apply(random_params(layer, I), inputs())
    assert outputs.shape == (3, 6, 7)
    assert layer.output_size == 7
    assert_equal(state[1].hidden, outputs[:, 0, 5:])
    assert_equal(state[0].hidden, outputs[:, -1, :5])


def test_stack_feeds_each_layer_the_one_below():
    layer = Stack([RNN(LSTM(5)), Bidirectional(GRU(4), GRU(2)), RNN(Elman(7))])
    params, state = random_params(layer, I), random_state(layer, (3,))
    mask = np.random.default_rng(0).random((3, 6)) < 0.7
    resets = np.random.default_rng(1).random((3, 6)) < 0.3
    final, outputs = layer.apply(params, inputs(), initial_state=state, mask=mask, resets=resets)
    x = inputs()
    for number, below in enumerate(layer.layers):
        own, x = below.apply(params[f"layer_{number}"], x, initial_state=state[number], mask=mask, resets=resets)
        assert_equal(final[number], own)
    assert_equal(outputs, x)
    assert layer.output_size == 7


def test_init_differs_from_layer_to_layer_and_from_direction_to_direction():
    layer = Stack([Bidirectional(GRU(4), GRU(4)), Bidirectional(GRU(4), GRU(4))])
    params = layer.init(jax.random.key(0), 8)
    kernels = [params[f"layer_{k}"][d]["recurrent_kernel"] for k in (0, 1) for d in ("forward", "backward")]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 4


def test_initial_state_defaults_to_the_layer_s_own():
    layer = Stack([Bidirectional(LSTM(4), GRU(5))])
    params = random_params(layer, I)
    assert_equal(layer.apply(params, inputs(), initial_state=layer.initial_state((3,))), layer.apply(params, inputs()))


def test_chunks_of_a_stack_with_carried_state_equal_the_whole():
    layer = Stack([RNN(LSTM(5)), RNN(GRU(4))])
    params = random_params(layer, I)
    expected = layer.apply(params, inputs())
    state, parts = layer.initial_state((3,)), []
    for start, end in [(0, 1), (1, 4), (4, 6)]:
        state, outputs = layer.apply(params, inputs()[:, start:end], initial_state=state)
        parts.append(outputs)
    assert_close((state, jnp.concatenate(parts, axis=1)), expected, rtol=1e-6)
