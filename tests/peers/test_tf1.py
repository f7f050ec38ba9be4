"""TF1's own cells: the outputs, final states and gradients that TensorFlow computed, kept in tests/data."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Elman, HiddenState, LSTMState
from tests.compare import assert_close
from tests.tiers import tiers

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "data" / "tf1_golden.npz")

# cell, and the forget bias that TF1 adds at run time
DYNAMIC = {
    "basic_rnn": (Elman(7), 0.0),
    "basic_lstm_forget_bias_1": (LSTM(7), 1.0),
    "basic_lstm_forget_bias_0": (LSTM(7, forget_bias=0.0), 0.0),
    "lstm_peephole": (LSTM(7, peephole=True), 1.0),
    "lstm_peephole_clip_proj": (
        LSTM(7, peephole=True, projection_size=4, cell_clip=0.4, projection_clip=0.3),
        1.0,
    ),
    "gru": (GRU(7, reset_after=False), 0.0),
}
BIDIRECTIONAL = {
    "lstm_7_11": (LSTM(7), LSTM(11)),
    "gru_7_5": (GRU(7, reset_after=False), GRU(5, reset_after=False)),
}


def params_from_tf1(cell, weights, forget_bias):
    """flaxrnn's parameters from TF1's, by their last names, differentiably."""
    if isinstance(cell, GRU):
        gates, candidate = weights["gates/kernel"], weights["candidate/kernel"]
        kernel = jnp.concatenate([gates, candidate], axis=1)
        bias = jnp.concatenate([weights["gates/bias"], weights["candidate/bias"]])
    else:
        kernel, bias = weights["kernel"], weights["bias"]
    if isinstance(cell, LSTM):
        i, j, f, o = jnp.split(kernel, 4, axis=1)
        kernel = jnp.concatenate([i, f, j, o], axis=1)
        i, j, f, o = jnp.split(bias, 4)
        bias = jnp.concatenate([i, f + forget_bias, j, o])
    input_size = len(kernel) - cell.output_size
    params = {"kernel": kernel[:input_size], "recurrent_kernel": kernel[input_size:], "bias": bias}
    if "w_i_diag" in weights:
        params["peephole"] = jnp.stack([weights[f"w_{gate}_diag"] for gate in "ifo"])
    if "projection/kernel" in weights:
        params["projection_kernel"] = weights["projection/kernel"]
    return params


def golden(runner, cell, case):
    """The arrays of one case: `{WHAT: array}`."""
    prefix = f"{runner}/{cell}/{case}/"
    return {key.removeprefix(prefix): GOLDEN[key] for key in GOLDEN.files if key.startswith(prefix)}


def numbered(values, what):
    """`[values["what/0"], values["what/1"], ...]`."""
    return [values[f"{what}/{k}"] for k in range(len([key for key in values if key.startswith(f"{what}/")]))]


def weights_below(values, prefix):
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def from_tf1_order(arrays):
    """TF1's state (c, h) or h."""
    return LSTMState(cell=arrays[0], hidden=arrays[1]) if len(arrays) == 2 else HiddenState(arrays[0])


def cell_scope(values, prefix):
    """The scope that TF1 put a cell's weights in, such as `rnn/lstm_cell/`."""
    name = next(key for key in values if key.startswith(prefix)).removeprefix(prefix).split("/")[0]
    return f"{prefix}{name}/"


@pytest.mark.parametrize("case", tiers(["full", "lengths"], {"lengths"}))
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_rnn(name, case):
    cell, forget_bias = DYNAMIC[name]
    values = golden("dynamic_rnn", name, case)
    scope = cell_scope(values, "weights/rnn/")
    lengths = values["lengths"] if case == "lengths" else None

    def run(weights, inputs):
        params = params_from_tf1(cell, weights, forget_bias)
        state, outputs = flaxrnn.scan(cell, params, inputs, lengths=lengths)
        return jnp.sum(outputs * values["cotangent/0"]), (state, outputs)

    gradient = jax.grad(run, argnums=(0, 1), has_aux=True)
    (weights_gradient, inputs_gradient), (state, outputs) = gradient(weights_below(values, scope), values["inputs"])
    assert_close(outputs, values["outputs/0"])
    assert_close(state, from_tf1_order(numbered(values, "final_state")))
    assert_close(inputs_gradient, values["grad/inputs"])
    assert_close(weights_gradient, weights_below(values, f"grad/{scope}"))


@pytest.mark.parametrize("case", tiers(["full", "lengths"], {"lengths"}))
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_bidirectional_dynamic_rnn(name, case):
    cells = BIDIRECTIONAL[name]
    layer = flaxrnn.Bidirectional(*cells, merge=None)
    values = golden("bidirectional_dynamic_rnn", name, case)
    scopes = [cell_scope(values, f"weights/bidirectional_rnn/{direction}/") for direction in ("fw", "bw")]
    lengths = values["lengths"] if case == "lengths" else None
    forget_bias = 1.0 if "lstm" in name else 0.0

    def run(weights, inputs):
        forward, backward = (params_from_tf1(cell, own, forget_bias) for cell, own in zip(cells, weights, strict=True))
        state, outputs = layer.apply({"forward": forward, "backward": backward}, inputs, lengths=lengths)
        cotangents = numbered(values, "cotangent")
        return sum(jnp.sum(o * c) for o, c in zip(outputs, cotangents, strict=True)), (state, outputs)

    gradient = jax.grad(run, argnums=(0, 1), has_aux=True)
    weights = [weights_below(values, scope) for scope in scopes]
    (weights_gradient, inputs_gradient), (state, outputs) = gradient(weights, values["inputs"])
    states = numbered(values, "final_state")
    half = len(states) // 2
    assert_close(outputs, tuple(numbered(values, "outputs")))
    assert_close(state, (from_tf1_order(states[:half]), from_tf1_order(states[half:])))
    assert_close(inputs_gradient, values["grad/inputs"])
    assert_close(weights_gradient, [weights_below(values, f"grad/{scope}") for scope in scopes])
