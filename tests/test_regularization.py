"""Dropout, zoneout, layer normalisation, residual stacks and the learned initial state.

Where a mask is to be seen, the cell is one whose outputs are the mask: the identity for an activation, simple kernels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack
from flaxrnn.cells import GRU, LSTM, Elman, Zoneout
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.every import CELLS
from tests.tiers import tiers

I = 3
B, T, H = 64, 5, 50
RATE = 0.3
KEY = jax.random.key(5)


def identity(x):
    return x


def assert_is_a_mask(mask, rate):
    """Zeros at about `rate`, and elsewhere what keeps the mean at one."""
    kept = mask != 0
    assert np.allclose(mask[kept], 1 / (1 - rate))
    assert 1 - kept.mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / mask.size) ** 0.5)


def test_dropout_between_layers():
    """Anew at each step, between the layers only."""
    cell = Elman(H, activation=identity)
    layer = Stack([RNN(cell), RNN(cell)], dropout=RATE)
    own = {"kernel": jnp.eye(H), "recurrent_kernel": jnp.zeros((H, H)), "bias": jnp.zeros(H)}
    params = {"layer_0": own, "layer_1": own}
    _, outputs = layer.apply(params, jnp.ones((B, T, H)), key=KEY)
    assert_is_a_mask(np.asarray(outputs), RATE)
    assert len(np.unique(np.asarray(outputs).reshape(B * T, H), axis=0)) == B * T
    _, in_evaluation = layer.apply(params, jnp.ones((B, T, H)))
    assert np.all(in_evaluation == 1)


def test_input_dropout_is_the_same_at_all_steps():
    cell = Elman(H, activation=identity, input_dropout=RATE)
    params = {"kernel": jnp.eye(H), "recurrent_kernel": jnp.zeros((H, H)), "bias": jnp.zeros(H)}
    _, outputs = flaxrnn.scan(cell, params, jnp.ones((B, T, H)), key=KEY)
    assert_is_a_mask(np.asarray(outputs[:, 0]), RATE)
    assert_equal(outputs, jnp.broadcast_to(outputs[:, :1], outputs.shape))
    assert len(np.unique(outputs[:, 0], axis=0)) == B


def test_hidden_dropout_is_the_same_at_all_steps():
    """An impulse at the first step goes through the mask once a step."""
    cell = Elman(H, activation=identity, hidden_dropout=RATE)
    params = {"kernel": jnp.eye(H), "recurrent_kernel": jnp.eye(H), "bias": jnp.zeros(H)}
    impulse = jnp.zeros((B, T, H)).at[:, 0].set(1)
    _, outputs = flaxrnn.scan(cell, params, impulse, key=KEY)
    assert np.all(outputs[:, 0] == 1)
    mask = outputs[:, 1]
    assert_is_a_mask(np.asarray(mask), RATE)
    for t in range(2, T):
        assert_close(outputs[:, t], mask**t, rtol=1e-6)


@pytest.mark.parametrize("reset_after", [True, False])
def test_hidden_dropout_does_not_forget_what_a_gru_carries_over(reset_after):
    cell = GRU(H, reset_after, hidden_dropout=RATE)
    params = random_params(cell, I)
    params["bias"] = params["bias"].at[H : 2 * H].set(1e4)  # the update gate keeps everything
    state = random_state(cell, (B,))
    final, _ = flaxrnn.scan(cell, params, jnp.zeros((B, T, I)), initial_state=state, key=KEY)
    assert_equal(final, state)


def test_recurrent_dropout_drops_what_is_added_and_not_what_is_remembered():
    cell = LSTM(H, recurrent_dropout=RATE)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, I))
    params["bias"] = jnp.repeat(jnp.array([1e4, 1e4, 1.0, 0.0]), H)  # both gates open, a constant candidate
    state = cell.initial_state((B,))._replace(cell=jnp.full((B, H), 7.0))
    final, _ = flaxrnn.scan(cell, params, jnp.zeros((B, T, I)), initial_state=state, key=KEY)
    added = (final.cell - 7) / (T * np.tanh(1))
    assert_is_a_mask(np.asarray(jnp.where(jnp.abs(added) < 1e-6, 0, added)), RATE)


def test_zoneout_is_drawn_for_each_step_and_each_field():
    cell = Zoneout(LSTM(H), hidden_rate=0.2, cell_rate=0.5)
    params, state, inputs = random_params(cell, I), random_state(cell, (B,)), jnp.asarray(normal(0, B, T, I))
    stays = []
    for t, key in enumerate(jax.random.split(KEY, T)):
        before, (state, _) = state, flaxrnn.scan(cell, params, inputs[:, t : t + 1], initial_state=state, key=key)
        stays.append([state.hidden == before.hidden, state.cell == before.cell])
    for field, rate in enumerate((0.2, 0.5)):
        share = np.mean([step[field] for step in stays])
        assert share == pytest.approx(rate, abs=5 * (rate * (1 - rate) / (B * T * H)) ** 0.5)

    _, outputs = flaxrnn.scan(cell, params, inputs, key=KEY)
    unchanged = np.asarray(outputs[:, 1:] == outputs[:, :-1])
    assert unchanged.mean() == pytest.approx(0.2, abs=0.02)
    assert len(np.unique(unchanged.reshape(B * (T - 1), H), axis=0)) == B * (T - 1)


def test_zoneout_in_evaluation_is_its_mean_in_training():
    cell = Zoneout(LSTM(8), hidden_rate=0.2, cell_rate=0.5)
    params, many = random_params(cell, I), 4000
    state = jax.tree.map(lambda s: jnp.broadcast_to(s, (many, *s.shape)), random_state(cell, ()))
    inputs = jnp.broadcast_to(normal(0, 1, I), (many, 1, I))
    in_evaluation, _ = flaxrnn.scan(cell, params, inputs, initial_state=state)
    in_training, _ = flaxrnn.scan(cell, params, inputs, initial_state=state, key=KEY)
    for field in ("hidden", "cell"):
        spread = np.std(getattr(in_training, field), axis=0).max()
        difference = np.mean(getattr(in_training, field), axis=0) - getattr(in_evaluation, field)[0]
        assert np.abs(difference).max() < 5 * spread / many**0.5


def noisy(cell):
    """The cell with every kind of dropout, and zoneout."""
    cell = dataclasses.replace(cell, input_dropout=0.2, hidden_dropout=0.3, recurrent_dropout=0.4)
    return Zoneout(cell, hidden_rate=0.1, cell_rate=0.2 if isinstance(cell, LSTM) else 0.0)


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_all_of_it_composes_with_every_cell_and_with_lengths(name):
    cell = noisy(CELLS[name])
    params, inputs, lengths = random_params(cell, I), jnp.asarray(normal(0, 4, 6, I)), jnp.array([6, 3, 1, 0])
    padding = jnp.arange(6)[:, None] >= lengths[:, None, None]

    @jax.jit
    def run(inputs, key):
        def loss(params):
            state, outputs = flaxrnn.scan(cell, params, inputs, lengths=lengths, key=key)
            return jnp.sum(outputs**2), (state, outputs)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (state, outputs) = run(inputs, KEY)
    assert gradient.keys() == params.keys()
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradient, state, outputs)))
    assert not np.any(jnp.where(padding, outputs, 0))
    assert_equal(run(jnp.where(padding, jnp.nan, inputs), KEY), (gradient, (state, outputs)))
    _, (_, other) = run(inputs, jax.random.key(6))
    assert np.any(other != outputs)


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_dropout_is_off_without_a_key(name):
    cell = CELLS[name]
    dropping = noisy(cell).cell
    params, inputs = random_params(cell, I), normal(0, 4, 6, I)
    assert_equal(flaxrnn.scan(dropping, params, inputs), flaxrnn.scan(cell, params, inputs))
    assert_equal(flaxrnn.scan(cell, params, inputs, key=KEY), flaxrnn.scan(cell, params, inputs))
    assert dropping.stochastic
    assert not cell.stochastic


def test_the_directions_and_the_layers_draw_their_own_masks():
    cell = Elman(H, activation=identity, input_dropout=RATE)
    own = {"kernel": jnp.eye(H), "recurrent_kernel": jnp.zeros((H, H)), "bias": jnp.zeros(H)}
    layer = Bidirectional(cell, cell, merge=None)
    _, (forward, backward) = layer.apply({"forward": own, "backward": own}, jnp.ones((B, T, H)), key=KEY)
    assert np.any(forward != backward)
    _, twice = Stack([RNN(cell), RNN(cell)]).apply({"layer_0": own, "layer_1": own}, jnp.ones((B, T, H)), key=KEY)
    share = np.mean(np.asarray(twice) == 0)
    assert share == pytest.approx(1 - (1 - RATE) ** 2, abs=0.05)


def test_dropout_leaves_the_residual_path_alone():
    """Upper layers that add nothing: what the first one gives comes out whole."""
    cell = Elman(H, activation=identity)
    one = {"kernel": jnp.eye(H), "recurrent_kernel": jnp.zeros((H, H)), "bias": jnp.zeros(H)}
    nothing = jax.tree.map(jnp.zeros_like, one)
    layer = Stack([RNN(cell)] * 4, dropout=0.5, residual=True)
    params = {"layer_0": one} | {f"layer_{number}": nothing for number in (1, 2, 3)}
    _, outputs = layer.apply(params, jnp.ones((B, T, H)), key=KEY)
    assert np.all(outputs == 1)


def test_residual_stack():
    layers = [RNN(GRU(4)), RNN(LSTM(4)), RNN(Elman(4))]
    plain, residual = Stack(layers), Stack(layers, residual=True)
    params, inputs, lengths = random_params(plain, I), normal(0, 2, 6, I), np.array([6, 2])
    _, outputs = residual.apply(params, inputs, lengths=lengths)
    x = inputs
    for number, layer in enumerate(layers):
        _, y = layer.apply(params[f"layer_{number}"], x, lengths=lengths)
        x = y + x if number else y
    assert_close(outputs, x, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_layer_normalisation_does_not_see_how_large_the_kernels_are(name):
    """Ba et al., section 5.1: the rescaling of a weight matrix changes nothing."""
    cell = dataclasses.replace(CELLS[name], layer_norm=True)
    params, inputs = random_params(cell, I), normal(0, 4, 6, I)
    params |= {
        "kernel": 100 * params["kernel"],
        "recurrent_kernel": 100 * params["recurrent_kernel"],
    }  # epsilon is nothing
    larger = params | {"kernel": 10 * params["kernel"], "recurrent_kernel": 100 * params["recurrent_kernel"]}
    state = random_state(cell, (4,))  # not zero: what is zero has no size to be normalised
    expected = flaxrnn.scan(cell, params, inputs, initial_state=state)
    actual = flaxrnn.scan(cell, larger, inputs, initial_state=state)
    assert_close(actual, expected, rtol=1e-3)


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_a_learned_initial_state_begins_each_sequence(name):
    cell = dataclasses.replace(CELLS[name], learn_initial_state=True)
    params, inputs = random_params(cell, I), normal(0, 3, 6, I)
    learned = {field.removeprefix("initial_"): value for field, value in params.items() if "initial_" in field}
    state = type(cell.initial_state())(**{field: jnp.stack([value] * 3) for field, value in learned.items()})
    without = {field: value for field, value in params.items() if "initial_" not in field}
    assert_equal(flaxrnn.scan(cell, params, inputs), flaxrnn.scan(CELLS[name], without, inputs, initial_state=state))
    resets = np.zeros((3, 6), bool)
    resets[:, 4] = True
    final, _ = flaxrnn.scan(cell, params, inputs, resets=resets)
    expected, _ = flaxrnn.scan(cell, params, inputs[:, 4:])
    assert_close(final, expected, rtol=1e-6)
    gradient = jax.grad(lambda params: jnp.sum(flaxrnn.scan(cell, params, inputs)[1] ** 2))(params)
    assert all(np.any(gradient[f"initial_{field}"] != 0) for field in learned)


def test_a_learned_initial_state_is_learned():
    """The first output depends on nothing else here."""
    cell = GRU(4, learn_initial_state=True)
    params = cell.init(KEY, I)
    target = jnp.array([0.5, -0.4, 0.3, -0.2])

    @jax.jit
    def loss(params):
        return jnp.mean((flaxrnn.scan(cell, params, jnp.zeros((1, I)))[1][0] - target) ** 2)

    only = {"initial_hidden"}
    for _ in range(200):
        gradient = jax.grad(loss)(params)
        params = {name: value - (name in only) * gradient[name] for name, value in params.items()}
    assert loss(params) < 1e-4
