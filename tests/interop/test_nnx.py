"""The real flax.nnx."""

import functools
import types

import hypothesis
import jax
import numpy as np
import pytest
from flax import nnx

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.places import places, plain_layers
from tests.compare import assert_close, normal, random_params
from tests.interop import harness
from tests.tiers import tiers

CELLS = {
    "LSTMCell": (LSTM, nnx.LSTMCell),
    "OptimizedLSTMCell": (LSTM, nnx.OptimizedLSTMCell),
    "GRUCell": (GRU, nnx.GRUCell),
    "SimpleCell": (Elman, nnx.SimpleCell),
}


def module_of(part, kind, inputs, dtype):
    """The module of nnx's that an RNN or a Bidirectional is."""
    rngs = nnx.Rngs(0)

    def rnn(cell):
        return nnx.RNN(
            kind(inputs, cell.hidden_size, dtype=dtype, param_dtype=dtype, rngs=rngs), return_carry=True, rngs=rngs
        )

    if isinstance(part, RNN):
        return rnn(part.cell)
    return nnx.Bidirectional(rnn(part.forward), rnn(part.backward), return_carry=True, rngs=rngs)


def runner(kind):
    def run(layer, weights, inputs, lengths):
        values, states = inputs, []
        for k, part in enumerate(plain_layers(layer)):
            module = module_of(part, kind, values.shape[-1], inputs.dtype)
            nnx.update(module, weights["layers"][k] if isinstance(layer, Stack) else weights)
            carry, values = module(values, seq_lengths=lengths)
            carries = [carry] if len(places(part)) == 1 else carry
            states += [[one[1], one[0]] if isinstance(one, tuple) else [one] for one in carries]
        return values, states

    return run


def without_recurrent_bias(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.numpy.zeros_like(leaf) if path[-1].key == "recurrent_bias" else leaf, params
    )


@pytest.mark.parametrize("name", tiers(CELLS, {"GRUCell", "OptimizedLSTMCell"}))
@harness.SETTINGS
@hypothesis.given(harness.sizes())
def test_agrees(name, example):
    cell, kind = CELLS[name]
    framework = interop.nnx
    if name == "OptimizedLSTMCell":
        export = functools.partial(interop.nnx.export_weights, optimized=True)
        framework = types.SimpleNamespace(export_weights=export, import_weights=interop.nnx.import_weights)
    harness.check(framework, cell(example.hidden), example, runner(kind), change=without_recurrent_bias)


def test_a_state_with_random_generators_in_it():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(
        nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs), rngs=rngs),
        nnx.Bidirectional(
            nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs), rngs=rngs),
            nnx.RNN(nnx.GRUCell(4, 2, rngs=rngs), rngs=rngs),
            rngs=rngs,
        ),
        nnx.RNN(nnx.SimpleCell(7, 6, activation_fn=jax.nn.relu, rngs=rngs), rngs=rngs),
    )
    layer = interop.nnx.layer_for(network)
    assert layer == Stack([RNN(LSTM(4)), Bidirectional(GRU(5), GRU(2)), RNN(Elman(6, activation=relu))])
    inputs = normal(0, 2, 5, 3)
    for state in (nnx.state(network), nnx.state(network, nnx.Param), nnx.to_pure_dict(nnx.state(network, nnx.Param))):
        params = interop.nnx.import_weights(layer, state)
        assert_close(layer.apply(params, inputs)[1], network(inputs))


def test_a_recurrent_bias():
    layer = RNN(GRU(4))
    params = random_params(layer, 3)
    with pytest.raises(ValueError, match=r"params\['recurrent_bias'\] is not zero, but flax.nnx's GRUCell has no bias"):
        interop.nnx.export_weights(layer, params)
    weights = interop.nnx.export_weights(layer, without_recurrent_bias(params))
    assert sorted(weights["cell"]) == ["dense_h", "dense_i"]
    assert np.shape(weights["cell"]["dense_i"]["bias"]) == (12,)


@pytest.mark.parametrize("cell", [GRU(4, reset_after=False), LSTM(4, coupled=True)], ids=str)
def test_what_nnx_has_not(cell):
    with pytest.raises(ValueError, match=r"flax.nnx has no "):
        interop.nnx.export_weights(RNN(cell), random_params(cell, 3))
