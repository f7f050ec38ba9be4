"""`jax.experimental.rnn`, which runs cuDNN's LSTM on a GPU and its own reference of it anywhere."""

import hypothesis
import jax
import jax.experimental.rnn
import jax.numpy as jnp
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM
from flaxrnn.interop.places import places
from tests.compare import random_params
from tests.interop import harness


def run(layer, weights, inputs, lengths):
    found = places(layer)
    directions = 2 if found[0].direction else 1
    sizes = {
        "input_size": inputs.shape[-1],
        "hidden_size": found[0].cell.hidden_size,
        "num_layers": len(found) // directions,
        "bidirectional": directions == 2,
    }
    unpacked = jax.experimental.rnn.unpack_lstm_weights(jnp.asarray(weights), *sizes.values())
    zeros = jnp.zeros((len(found), len(inputs), sizes["hidden_size"]))
    lengths = jnp.full(len(inputs), inputs.shape[1]) if lengths is None else jnp.asarray(lengths)
    outputs, hidden, cell = jax.experimental.rnn.lstm_ref(
        jnp.asarray(inputs), zeros, zeros, *unpacked, seq_lengths=lengths.astype(jnp.int32), dropout=0.0, **sizes
    )
    return outputs, [list(pair) for pair in zip(hidden, cell, strict=True)]


@harness.SETTINGS
@hypothesis.given(harness.sizes(dtypes=("float32",)))
def test_agrees(example):
    harness.check(interop.cudnn, LSTM(example.hidden), example, run)


@harness.SETTINGS
@hypothesis.given(harness.sizes(dtypes=("float32",)))
def test_size_and_layer_are_those_of_jax(example):
    layer = interop.cudnn.layer_for(
        hidden_size=example.hidden, num_layers=example.layers, bidirectional=example.bidirectional
    )
    assert layer == example.layer(LSTM(example.hidden))
    vector = interop.cudnn.export_weights(layer, random_params(layer, example.inputs))
    size = jax.experimental.rnn.get_num_params_in_lstm(
        example.inputs, example.hidden, example.layers, example.bidirectional
    )
    assert vector.shape == (size,)
    with pytest.raises(ValueError, match="takes a vector of"):
        interop.cudnn.import_weights(layer, vector[:-1])


WRONG = {
    "gru": (RNN(GRU(4)), "cuDNN's vector has no GRU"),
    "peephole": (RNN(LSTM(4, peephole=True)), "cuDNN's vector has no LSTM with peephole=True"),
    "sizes": (Stack([RNN(LSTM(4)), RNN(LSTM(5))]), "cuDNN's vector's layers are all alike"),
    "merge": (Bidirectional(LSTM(4), LSTM(4), merge="sum"), "concatenates the outputs of its directions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cudnn_has_not(name):
    layer, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        interop.cudnn.export_weights(layer, random_params(layer, 3))


def test_float32_alone(x64):
    layer = RNN(LSTM(4))
    with pytest.raises(TypeError, match="params are in float64: cuDNN's LSTM of JAX takes float32 alone"):
        interop.cudnn.export_weights(layer, random_params(layer, 3, dtype=np.float64))
