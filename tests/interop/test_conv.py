"""Convolutional LSTMs of the real linen, Keras and Haiku, here and back; and clear errors elsewhere."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import ConvGRU, ConvLSTM
from tests.compare import assert_close, normal, random_params
from tests.peers.peer import peer

B, T, I, H = 2, 4, 2, 3
SPATIAL = (5, 4)
INPUTS = normal(0, B, T, *SPATIAL, I)


def there_and_back(framework, layer):
    """What a framework's weights of random parameters are, and the parameters that come back from them."""
    params = random_params(layer, I)
    weights = framework.export_weights(layer, params)
    assert_close(framework.import_weights(layer, weights), params, rtol=1e-6)
    return params, weights


def test_linen():
    module = nn.Sequential(
        [
            nn.RNN(nn.ConvLSTMCell(H, (3, 2))),
            nn.Bidirectional(nn.RNN(nn.ConvLSTMCell(2, (3, 3))), nn.RNN(nn.ConvLSTMCell(4, (1, 3)))),
        ]
    )
    variables = module.init(jax.random.key(0), INPUTS)
    variables = jax.tree.map(lambda x: normal(x.size, *x.shape) / 2, variables)  # both biases
    layer = interop.linen.layer_for(module)
    assert layer == Stack([RNN(ConvLSTM(H, (3, 2))), Bidirectional(ConvLSTM(2, (3, 3)), ConvLSTM(4, (1, 3)))])
    assert interop.linen.layer_for(variables, "params/layers_1") == layer.layers[1]
    params = interop.linen.import_weights(layer, variables)
    assert_close(layer.apply(params, INPUTS)[1], module.apply(variables, INPUTS))
    params, weights = there_and_back(interop.linen, layer)
    assert_close(module.apply(weights, INPUTS), layer.apply(params, INPUTS)[1])


def test_keras():
    keras = peer("keras")
    keras.utils.set_random_seed(0)
    options = {"padding": "same", "return_sequences": True}
    network = keras.Sequential(
        [
            keras.layers.ConvLSTM2D(H, (3, 2), dropout=0.5, recurrent_dropout=0.25, **options),
            keras.layers.Bidirectional(keras.layers.ConvLSTM2D(2, 3, **options), merge_mode="sum"),
        ]
    )
    expected = network(INPUTS)
    layer = interop.keras.layer_for(network)
    dropped = ConvLSTM(H, (3, 2), input_dropout=0.5, hidden_dropout=0.25)
    assert layer == Stack([RNN(dropped), Bidirectional(*[ConvLSTM(2, (3, 3))] * 2, merge="sum")])
    by_path = {variable.path: np.asarray(variable) for variable in network.weights if "seed" not in variable.path}
    for weights in (by_path, list(by_path.values())):
        assert_close(layer.apply(interop.keras.import_weights(layer, weights), INPUTS)[1], expected)
    assert interop.keras.layer_for(by_path).layers[0] == RNN(ConvLSTM(H, (3, 2)))
    params, weights = there_and_back(interop.keras, layer)
    assert list(weights)[:2] == [
        "layer_0/conv_lstm2d/conv_lstm_cell/kernel",
        "layer_0/conv_lstm2d/conv_lstm_cell/recurrent_kernel",
    ]
    for variable, array in zip([v for v in network.weights if "seed" not in v.path], weights.values(), strict=True):
        variable.assign(array)
    assert_close(network(INPUTS), layer.apply(params, INPUTS)[1])


def test_haiku():
    hk = peer("haiku")

    def network(inputs):
        for core in (hk.Conv2DLSTM(SPATIAL, H, (3, 2)), hk.Conv2DLSTM(SPATIAL, 2, 3)):
            inputs, _ = hk.dynamic_unroll(core, inputs, core.initial_state(B), time_major=False)
        return inputs

    model = hk.without_apply_rng(hk.transform(network))
    weights = model.init(jax.random.key(0), INPUTS)
    weights = jax.tree.map(lambda x: jnp.asarray(normal(x.size, *x.shape)) / 2, weights)
    layer = interop.haiku.layer_for(weights)
    assert layer == Stack([RNN(ConvLSTM(H, (3, 2))), RNN(ConvLSTM(2, (3, 3)))])
    params = interop.haiku.import_weights(layer, weights)
    assert_close(layer.apply(params, INPUTS)[1], model.apply(weights, INPUTS))
    params, exported = there_and_back(interop.haiku, layer)
    assert jax.tree.map(jnp.shape, exported) == jax.tree.map(jnp.shape, weights)
    assert_close(model.apply(exported, INPUTS), layer.apply(params, INPUTS)[1])
    both = Stack([RNN(ConvLSTM(H, (3,))), RNN(ConvLSTM(H, (5,)))])
    assert list(interop.haiku.export_weights(both, random_params(both, I)))[::2] == [
        "conv1_dlstm/input_to_hidden",
        "conv1_dlstm_1/input_to_hidden",
    ]


def test_stablehlo():
    layer = Stack([RNN(ConvLSTM(H, (3, 3))), RNN(ConvGRU(2, (3, 3)))])
    params = random_params(layer, I)
    program = interop.stablehlo.load_model(interop.stablehlo.export_model(layer, params, lengths=True))
    for inputs in (INPUTS, INPUTS[:1, :3, :3, :3]):
        lengths = jnp.full(len(inputs), 2, jnp.int32)
        state, outputs = program(inputs, lengths)
        expected, expected_outputs = layer.apply(params, inputs, lengths=lengths)
        assert_close((state[0], outputs), (expected[0]._asdict(), expected_outputs))


@pytest.mark.parametrize("name", ["torch", "tf1", "nnx", "equinox", "onnx", "cudnn"])
@pytest.mark.parametrize("cell", [ConvLSTM(H, (3, 3)), ConvGRU(H, (3, 3))], ids=str)
def test_frameworks_without_them(name, cell):
    framework = getattr(interop, name)
    with pytest.raises(ValueError, match=r"has no Conv(LSTM|GRU)\(features=3, kernel_size=\(3, 3\)\): it has LSTM"):
        framework.export_weights(RNN(cell), random_params(cell, I))


@pytest.mark.parametrize("name", ["linen", "keras", "haiku"])
def test_options_that_they_have_not(name):
    framework = getattr(interop, name)
    for cell, message in (
        (ConvLSTM(H, (3,), peephole=True), "has no ConvLSTM with peephole=True"),
        (ConvGRU(H, (3,)), "has no ConvGRU"),
    ):
        with pytest.raises(ValueError, match=message):
            framework.export_weights(RNN(cell), random_params(cell, I))


def test_layer_for_what_flaxrnn_has_not():
    keras = peer("keras")
    for options, message in (
        ({}, "padding='valid': flaxrnn's ConvLSTM is as with padding='same'"),
        ({"padding": "same", "strides": 2}, r"strides=\(2, 2\)"),
        ({"padding": "same", "dilation_rate": 2}, r"dilation_rate=\(2, 2\)"),
        ({"padding": "same", "data_format": "channels_first"}, "data_format='channels_first'"),
        ({"padding": "same", "activation": "relu"}, "the activations relu and sigmoid"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.keras.layer_for(keras.layers.ConvLSTM2D(H, 3, **options))
    for options in ({"padding": "VALID"}, {"strides": (1, 2)}):
        with pytest.raises(ValueError, match="ConvLSTMCell with padding="):
            interop.linen.layer_for(nn.RNN(nn.ConvLSTMCell(H, (3, 3), **options)))


def test_weights_of_the_wrong_shape():
    weights = interop.haiku.export_weights(RNN(ConvLSTM(H, (3, 3))), random_params(ConvLSTM(H, (3, 3)), I))
    weights["conv2_dlstm/hidden_to_hidden"]["w"] = weights["conv2_dlstm/hidden_to_hidden"]["w"][..., 1:]
    with pytest.raises(ValueError, match=r"has the shape \[3, 3, 3, 11\]: pass \[\*window, features, 4 \* features\]"):
        interop.haiku.layer_for(weights)
    params = random_params(ConvLSTM(H, (3, 3)), I)
    weights = interop.linen.export_weights(RNN(ConvLSTM(H, (3, 3))), params)
    with pytest.raises(ValueError, match=r"ih/kernel has the shape \[3, 3, 2, 12\], but .* takes \[5, 5, 2, 12\]"):
        interop.linen.import_weights(RNN(ConvLSTM(H, (5, 5))), weights)
