"""The gates that are drawn are those that the cell has computed with."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Elman, Zoneout
from tests.compare import assert_close, normal, random_params
from train.reading import read

CELLS = {
    "lstm": LSTM(4),
    "peephole": LSTM(4, peephole=True),
    "coupled": LSTM(4, coupled=True, peephole=True),
    "projection": LSTM(4, projection_size=3),
    "layer_norm": LSTM(4, layer_norm=True),
    "gru": GRU(4),
    "gru_reset_before": GRU(4, reset_after=False),
    "elman": Elman(4),
}


def test_zoneout_mixes_what_the_gates_have_computed():
    cell = Zoneout(LSTM(4, peephole=True), hidden_rate=0.2, cell_rate=0.3)
    params, inputs = random_params(cell, 3), jnp.asarray(normal(0, 7, 3))
    steps = read(cell, params, inputs)
    state, _ = flaxrnn.scan(cell, params, inputs)
    assert_close(state.cell, steps["cell"][-1])
    zeros = np.zeros((1, 4), np.float32)
    before, hidden_before = (np.concatenate([zeros, steps[name][:-1]]) for name in ("cell", "hidden"))
    computed = steps["forget"] * before + steps["input"] * steps["candidate"]
    assert_close(0.3 * before + 0.7 * computed, steps["cell"])
    assert_close(0.2 * hidden_before + 0.8 * steps["output"] * np.tanh(computed), steps["hidden"])


@pytest.mark.parametrize("name", CELLS)
def test_states_are_those_of_scan_and_gates_explain_them(name):
    cell = CELLS[name]
    params, inputs = random_params(cell, 3), jnp.asarray(normal(0, 7, 3))
    steps = read(cell, params, inputs)
    state, outputs = flaxrnn.scan(cell, params, inputs)
    assert_close(steps["hidden"], outputs)
    if isinstance(cell, LSTM):
        before = np.concatenate([np.zeros((1, 4), np.float32), steps["cell"][:-1]])
        assert_close(steps["forget"] * before + steps["input"] * steps["candidate"], steps["cell"])
        assert_close(state.cell, steps["cell"][-1])
    if name in ("lstm", "peephole", "coupled"):
        assert_close(steps["output"] * np.tanh(steps["cell"]), steps["hidden"])
    if isinstance(cell, GRU):
        before = np.concatenate([np.zeros((1, 4), np.float32), steps["hidden"][:-1]])
        update = np.asarray(steps["update"])
        candidate = (steps["hidden"] - update * before) / (1 - update)
        assert np.all(np.abs(candidate) <= 1 + 1e-4)  # it is a tanh
        assert np.all((steps["reset"] > 0) & (steps["reset"] < 1))
