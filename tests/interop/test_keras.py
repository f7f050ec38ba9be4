"""The real Keras, on JAX."""

import hypothesis
import jax
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.places import places, plain_layers
from tests.compare import assert_close, normal, random_params
from tests.interop import harness
from tests.peers.peer import peer
from tests.tiers import tiers

keras = peer("keras")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy keyword")  # Keras's own

CELLS = {
    "lstm": lambda hidden: LSTM(hidden),
    "gru": lambda hidden: GRU(hidden),
    "gru_reset_before": lambda hidden: GRU(hidden, reset_after=False),
    "simple_rnn": lambda hidden: Elman(hidden),
    "simple_rnn_relu": lambda hidden: Elman(hidden, activation=relu),
}


def keras_layer(part, **options):
    """The Keras layer that an RNN or a Bidirectional is."""
    if isinstance(part, Bidirectional):
        return keras.layers.Bidirectional(keras_layer(RNN(part.forward), **options), merge_mode=part.merge)
    cell = part.cell
    options |= {"use_bias": cell.use_bias}
    options |= {"return_sequences": True, "return_state": True, "zero_output_for_mask": True}
    if isinstance(cell, LSTM):
        return keras.layers.LSTM(cell.hidden_size, **options)
    if isinstance(cell, GRU):
        return keras.layers.GRU(cell.hidden_size, reset_after=cell.reset_after, **options)
    name = "relu" if cell.activation is relu else "tanh"
    return keras.layers.SimpleRNN(cell.hidden_size, activation=name, **options)


def run(layer, weights, inputs, lengths):
    mask = None if lengths is None else jax.numpy.arange(inputs.shape[1]) < lengths[:, None]
    values, states, left = jax.numpy.asarray(inputs), [], list(weights.values())
    for part in plain_layers(layer):
        theirs = keras_layer(part, dtype=str(inputs.dtype))
        theirs.build(values.shape)
        theirs.set_weights([left.pop(0) for _ in theirs.weights])
        values, *state = theirs(values, mask=mask)
        each = len(state) // len(places(part))
        states += [state[k : k + each] for k in range(0, len(state), each)]
    assert not left
    return values, states


@pytest.mark.parametrize("name", tiers(CELLS, {"gru_reset_before", "lstm"}))
@harness.SETTINGS
@hypothesis.given(harness.sizes(dtypes=("float32",)))  # its tanh on JAX gives float32 for float64
def test_agrees(name, example):
    harness.check(interop.keras, CELLS[name](example.hidden), example, run)


def model():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.LSTM(4, return_sequences=True),
            layers.Bidirectional(layers.GRU(5, return_sequences=True), merge_mode="ave"),
            layers.RNN([layers.LSTMCell(3), layers.GRUCell(6, reset_after=False)], return_sequences=True),
            layers.SimpleRNN(2, activation="relu", use_bias=True, return_sequences=True),
        ]
    )


@pytest.mark.slow
def test_a_model_of_many_kinds():
    keras.utils.set_random_seed(0)
    network, inputs = model(), normal(0, 2, 5, 3)
    expected = network(inputs)
    layer = interop.keras.layer_for(network)
    params = interop.keras.import_weights(layer, network.get_weights())
    assert_close(layer.apply(params, inputs)[1], expected)


def test_weights_by_path():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential([layers.LSTM(4, return_sequences=True) for _ in range(11)] + [layers.Dense(3)])
    inputs = normal(0, 2, 5, 4)
    network(inputs)
    by_path = {variable.path: variable.numpy() for variable in network.weights if "dense" not in variable.path}
    by_path = dict(sorted(by_path.items()))  # lstm_10 before lstm_2, as a file has them
    layer = interop.keras.layer_for(by_path)
    assert layer == Stack([RNN(LSTM(4))] * 11)
    params = interop.keras.import_weights(layer, by_path)
    assert_close(layer.apply(params, inputs)[1], keras.Sequential(network.layers[:-1])(inputs))


def test_the_order_by_path_is_that_of_the_layers():
    """Names that tell it, an order that is not the alphabetical one, and an error else."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [layers.LSTM(4, return_sequences=True), layers.Bidirectional(layers.LSTM(4, return_sequences=True), "sum")]
    )
    inputs = normal(0, 2, 5, 4)
    expected = network(inputs)
    by_path = {variable.path: np.asarray(variable) for variable in network.weights}
    layer = interop.keras.layer_for(network)
    for weights in (by_path, dict(sorted(by_path.items()))):
        params = interop.keras.import_weights(layer, weights)
        assert_close(layer.apply(params, inputs)[1], expected)

    network = keras.Sequential([layers.LSTM(4, name=name, return_sequences=True) for name in ("one", "two", "three")])
    expected = network(inputs)
    by_path = {variable.path: np.asarray(variable) for variable in network.weights}
    layer = interop.keras.layer_for(by_path)
    assert_close(layer.apply(interop.keras.import_weights(layer, by_path), inputs)[1], expected)
    with pytest.raises(ValueError, match="the order of the layers is not to be seen from the names"):
        interop.keras.import_weights(layer, dict(sorted(by_path.items())))


def test_two_kinds_in_two_directions():
    layer = Bidirectional(LSTM(4), GRU(3))
    assert interop.keras.layer_for(interop.keras.export_weights(layer, random_params(layer, 3))) == layer


BACKWARDS = {
    "below": [keras.layers.LSTM(4, go_backwards=True), keras.layers.LSTM(4)],
    "forward layer": [
        keras.layers.Bidirectional(keras.layers.LSTM(4, go_backwards=True), backward_layer=keras.layers.LSTM(4))
    ],
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_layers_that_read_backwards(name):
    with pytest.raises(ValueError, match="backwards"):
        interop.keras.layer_for(keras.Sequential(BACKWARDS[name]))


def test_dropout_comes_over():
    theirs = keras.layers.GRU(4, dropout=0.5, recurrent_dropout=0.25)
    assert interop.keras.layer_for(theirs) == RNN(GRU(4, input_dropout=0.5, hidden_dropout=0.25))
    theirs = keras.layers.SimpleRNN(4, dropout=0.5, recurrent_dropout=0.25)
    assert interop.keras.layer_for(theirs) == RNN(Elman(4, input_dropout=0.5, hidden_dropout=0.25))


def test_without_biases():
    keras.utils.set_random_seed(0)
    theirs = keras.layers.GRU(4, use_bias=False, return_sequences=True)
    inputs = normal(0, 2, 5, 3)
    expected = theirs(inputs)
    assert interop.keras.layer_for(theirs) == RNN(GRU(4, use_bias=False))
    params = interop.keras.import_weights(RNN(GRU(4)), theirs.get_weights())  # with biases of zero
    assert_close(RNN(GRU(4)).apply(params, inputs)[1], expected)


def test_some_layers_without_biases():
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.layers.GRU(4, use_bias=False, reset_after=False, return_sequences=True),
            keras.layers.LSTM(3, return_sequences=True),
            keras.layers.SimpleRNN(2, use_bias=False, return_sequences=True),
        ]
    )
    inputs = normal(0, 2, 5, 3)
    expected, weights = network(inputs), network.get_weights()
    layer = interop.keras.layer_for(network)
    params = interop.keras.import_weights(layer, weights)
    assert_close(layer.apply(params, inputs)[1], expected)
    network.set_weights(list(interop.keras.export_weights(layer, params).values()))
    with pytest.raises(ValueError, match="weights are 5 arrays, but a layer of 3 cells has 9, or without"):
        interop.keras.import_weights(Stack([RNN(GRU(4))] * 3), weights[:5])


def test_layer_for_an_lstm_of_another_activation():
    with pytest.raises(ValueError, match="has the activations relu and sigmoid: flaxrnn's cells have tanh and sigmoid"):
        interop.keras.layer_for(keras.layers.LSTM(4, activation="relu"))


@pytest.mark.parametrize("options", [{"peephole": True}, {"coupled": True}, {"projection_size": 2}, {"cell_clip": 1.0}])
def test_what_keras_has_not(options):
    layer = RNN(LSTM(4, **options))
    with pytest.raises(ValueError, match=f"Keras has no LSTM with {next(iter(options))}="):
        interop.keras.export_weights(layer, random_params(layer, 3))
