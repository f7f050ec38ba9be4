"""TF1: what TensorFlow's own cells computed from their own variables, kept in tests/data; contrib's cell, by hand."""

import dataclasses

import hypothesis
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from tests.compare import assert_close, assert_equal, normal, random_params
from tests.interop import harness
from tests.peers.test_tf1 import BIDIRECTIONAL, DYNAMIC, from_tf1_order, golden, numbered, weights_below

CELLS = {
    "basic_rnn": lambda hidden: Elman(hidden),
    "lstm": lambda hidden: LSTM(hidden),
    "lstm_peephole": lambda hidden: LSTM(hidden, peephole=True),
    "lstm_projection": lambda hidden: LSTM(hidden, peephole=True, projection_size=2),
    "lstm_coupled": lambda hidden: LSTM(hidden, coupled=True, peephole=True, projection_size=3),
    "gru": lambda hidden: GRU(hidden, reset_after=False),
}


@pytest.mark.parametrize("name", CELLS)
@harness.SETTINGS
@hypothesis.given(example=harness.sizes(dtypes=("float32",)))
def test_there_and_back(name, example):
    layer = example.layer(CELLS[name](example.hidden))
    params = random_params(layer, example.inputs)
    variables = interop.tf1.export_weights(layer, params, forget_bias=0.0)
    assert interop.tf1.layer_for(variables) == layer
    assert_equal(interop.tf1.import_weights(layer, variables, forget_bias=0.0), params)
    rounded = interop.tf1.import_weights(layer, interop.tf1.export_weights(layer, params))
    assert_close(rounded, params, rtol=1e-6)


@pytest.mark.parametrize("case", ["full", "lengths"])
@pytest.mark.parametrize("name", [*DYNAMIC, *BIDIRECTIONAL])
def test_what_tensorflow_computed(name, case):
    runner = "dynamic_rnn" if name in DYNAMIC else "bidirectional_dynamic_rnn"
    values = golden(runner, name, case)
    variables = weights_below(values, "weights/")
    layer = interop.tf1.layer_for(variables)
    if "clip" in name:  # which the variables do not tell
        layer = RNN(dataclasses.replace(layer.cell, cell_clip=0.4, projection_clip=0.3))
    params = interop.tf1.import_weights(layer, variables, forget_bias=0.0 if name.endswith("bias_0") else 1.0)
    state, outputs = layer.apply(params, values["inputs"], lengths=values["lengths"] if case == "lengths" else None)
    assert_close(outputs, np.concatenate(numbered(values, "outputs"), axis=-1))
    states = numbered(values, "final_state")
    half = len(states) // 2
    cells = (states[:half], states[half:]) if name in BIDIRECTIONAL else (states,)
    assert_close(state if name in BIDIRECTIONAL else (state,), tuple(from_tf1_order(arrays) for arrays in cells))
    back = interop.tf1.export_weights(layer, params, forget_bias=0.0 if name.endswith("bias_0") else 1.0)
    assert {scope(key): array.shape for key, array in back.items()} == {
        scope(key): array.shape for key, array in variables.items()
    }


def scope(name):
    """A variable's name, whether it is of a BasicLSTMCell or an LSTMCell, which have the same variables."""
    return name.replace("basic_lstm_cell", "lstm_cell")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def coupled_lstm(variables, inputs, forget_bias):
    """contrib's CoupledInputForgetGateLSTMCell, step by step in NumPy, after TensorFlow 1.15's rnn_cell.py."""
    c = np.zeros((len(inputs), len(variables["W_F_diag"])))
    m = np.zeros((len(inputs), variables["W_P_0"].shape[1]))
    outputs = []
    for x in inputs.swapaxes(0, 1):
        j, f, o = np.split(np.concatenate([x, m], 1) @ variables["W_0"] + variables["B"], 3, axis=1)
        f = sigmoid(f + forget_bias + variables["W_F_diag"] * c)
        c = f * c + (1 - f) * np.tanh(j)
        m = sigmoid(o + variables["W_O_diag"] * c) * np.tanh(c) @ variables["W_P_0"]
        outputs.append(m)
    return np.stack(outputs, 1), c


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.5])
def test_contribs_coupled_cell(forget_bias, x64):
    shapes = {"W_0": (3 + 2, 12), "B": (12,), "W_F_diag": (4,), "W_O_diag": (4,), "W_P_0": (4, 2)}
    drawn = {name: normal(k, *shape, dtype=np.float64) for k, (name, shape) in enumerate(shapes.items())}
    variables = {f"rnn/coupled_input_forget_gate_lstm_cell/{name}": array for name, array in drawn.items()}
    layer = interop.tf1.layer_for(variables)
    assert layer == RNN(LSTM(4, peephole=True, coupled=True, projection_size=2))
    params = interop.tf1.import_weights(layer, variables, forget_bias=forget_bias)
    inputs = normal(9, 2, 5, 3, dtype=np.float64)
    state, outputs = layer.apply(params, inputs)
    assert_close((outputs, state.cell), coupled_lstm(drawn, inputs, forget_bias), rtol=1e-12)


def test_the_forget_bias_in_its_range_keeps_every_bit():
    layer = RNN(LSTM(64))
    params = random_params(layer, 3)
    params["bias"] = np.random.default_rng(0).uniform(0.5, 2, 256).astype(np.float32)
    assert_equal(interop.tf1.import_weights(layer, interop.tf1.export_weights(layer, params)), params)


def test_eleven_layers():
    layer = Stack([RNN(GRU(4, reset_after=False))] * 11)
    params = random_params(layer, 4)
    variables = dict(sorted(interop.tf1.export_weights(layer, params).items()))  # cell_10 before cell_2
    assert interop.tf1.layer_for(variables) == layer
    assert_equal(interop.tf1.import_weights(layer, variables), params)


def test_names_in_a_checkpoint():
    layer = Stack([Bidirectional(LSTM(4), LSTM(4)), Bidirectional(LSTM(4), LSTM(4))])
    names = interop.tf1.export_weights(layer, random_params(layer, 3))
    assert "stack_bidirectional_rnn/cell_1/bidirectional_rnn/bw/lstm_cell/kernel" in names
    variables = {f"model/{name}": array for name, array in names.items()} | {"model/dense/kernel": normal(0, 8, 2)}
    with pytest.raises(ValueError, match="model/dense/kernel: no recurrent cell of TF1 has these alone"):
        interop.tf1.layer_for(variables)
    assert interop.tf1.layer_for(variables, prefix="model/stack_bidirectional_rnn/") == layer


def test_a_scope_of_unknown_kind():
    with pytest.raises(ValueError, match="mine/kernel, mine/bias: no recurrent cell of TF1 has these alone"):
        interop.tf1.layer_for({"mine/kernel": normal(0, 7, 16), "mine/bias": normal(1, 16)})


def test_reset_after():
    with pytest.raises(
        ValueError, match="TF1 has no GRU with reset_after=True, only False: its reset gate acts before"
    ):
        interop.tf1.export_weights(RNN(GRU(4)), random_params(GRU(4), 3))
