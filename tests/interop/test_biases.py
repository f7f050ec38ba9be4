"""Cells without biases: as such where the real library has them, else with biases of zero."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.arrays import flatten
from tests.compare import assert_equal, normal, random_params
from tests.interop import (
    harness,
    test_cudnn,
    test_equinox,
    test_haiku,
    test_keras,
    test_linen,
    test_nnx,
    test_onnx,
    test_torch,
)

BARE, BARE_GRU, BARE_ELMAN = LSTM(4, use_bias=False), GRU(4, use_bias=False), Elman(4, use_bias=False)
BARE_RESET_BEFORE = GRU(4, reset_after=False, use_bias=False)


FLAX = {LSTM: nn.OptimizedLSTMCell, GRU: nn.GRUCell, Elman: nn.SimpleCell}
FLAX_NNX = {LSTM: nnx.LSTMCell, GRU: nnx.GRUCell, Elman: nnx.SimpleCell}


def run_onnx(layer, weights, inputs, lengths):
    model = interop.onnx.export_model(layer, interop.onnx.import_weights(layer, weights))
    assert interop.onnx.layer_for(model) == layer
    assert_equal(interop.onnx.import_weights(layer, model), interop.onnx.import_weights(layer, weights))
    return test_onnx.run_model(layer, model, inputs, lengths)


WITHOUT = {
    "torch": (test_torch.run, [BARE, BARE_GRU, BARE_ELMAN, LSTM(4, projection_size=3, use_bias=False)]),
    "keras": (test_keras.run, [BARE, BARE_GRU, BARE_RESET_BEFORE, BARE_ELMAN]),
    "equinox": (test_equinox.run, [BARE, BARE_GRU]),
    "onnx": (
        run_onnx,
        [LSTM(4, peephole=True, coupled=True, use_bias=False), BARE_GRU, BARE_RESET_BEFORE, BARE_ELMAN],
    ),
}
WITH_ZEROS = {
    "linen": (
        lambda layer, *given: test_linen.runner(FLAX[type(layer.layers[0].forward)])(layer, *given),
        [BARE, BARE_GRU, BARE_ELMAN],
    ),
    "nnx": (
        lambda layer, *given: test_nnx.runner(FLAX_NNX[type(layer.layers[0].forward)])(layer, *given),
        [BARE, BARE_GRU, BARE_ELMAN],
    ),
    "haiku": (test_haiku.run, [BARE, BARE_RESET_BEFORE, Elman(4, activation=relu, use_bias=False)]),
    "cudnn": (test_cudnn.run, [BARE]),
}


def stack(cell):
    return Stack([Bidirectional(cell, cell)] * 2)


def there_and_back(framework, cell, run):
    """What is exported, after the real library has run it and it has come back."""
    module, layer = getattr(interop, framework), stack(cell)
    params, inputs = random_params(layer, 3), normal(0, 2, 3, 3)
    weights = module.export_weights(layer, params)
    harness.agree(layer, params, inputs, None, run(layer, weights, inputs, None))
    assert_equal(module.import_weights(layer, weights), params)
    return weights


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy keyword")  # Keras's own
@pytest.mark.parametrize("framework", WITHOUT)
def test_without(framework):
    run, cells = WITHOUT[framework]
    for cell in cells:
        weights = there_and_back(framework, cell, run)
        assert not [name for name in weights if "bias" in name or name.endswith("/B")]
        told = {"projection_size", "peephole"} & {field for field in vars(cell) if vars(cell)[field]}
        if cell in (BARE, BARE_GRU) or told == {"projection_size"}:  # all that names and shapes tell
            assert getattr(interop, framework).layer_for(weights) == stack(cell)


@pytest.mark.parametrize("framework", WITH_ZEROS)
def test_with_zeros(framework):
    run, cells = WITH_ZEROS[framework]
    for cell in cells:
        weights = there_and_back(framework, cell, run)
        with pytest.raises(
            ValueError, match=r"the weights have a (recurrent_)?bias that is not zero, but .* has no biases"
        ):
            getattr(interop, framework).import_weights(stack(cell), harness.redrawn(weights, 0))


@pytest.mark.parametrize("cell", [BARE, LSTM(4, peephole=True, projection_size=2, use_bias=False), BARE_RESET_BEFORE])
def test_tf1_with_zeros(cell):
    layer = RNN(cell)
    params = random_params(layer, 3)
    for forget_bias in (0.0, 0.3, 1.0):
        weights = interop.tf1.export_weights(layer, params, forget_bias=forget_bias)
        assert any("bias" in name for name in weights)
        assert_equal(interop.tf1.import_weights(layer, weights, forget_bias=forget_bias), params)
    with pytest.raises(ValueError, match="the weights have a bias that is not zero"):
        interop.tf1.import_weights(layer, weights, forget_bias=0.5) if isinstance(cell, LSTM) else (
            interop.tf1.import_weights(layer, harness.redrawn(weights, 0))
        )


@pytest.mark.parametrize("framework", ["torch", "cudnn"])
def test_alike_in_biases_too(framework):
    layer = Stack([RNN(LSTM(4)), RNN(BARE)])
    with pytest.raises(ValueError, match="layers are all alike"):
        getattr(interop, framework).export_weights(layer, random_params(layer, 3))


def test_directions_of_onnx_of_which_one_has_no_biases():
    layer = Bidirectional(LSTM(4), BARE)
    params, inputs = random_params(layer, 3), normal(0, 2, 3, 3)
    model = interop.onnx.export_model(layer, params)
    assert interop.onnx.layer_for(model) == layer
    harness.agree(layer, params, inputs, None, test_onnx.run_model(layer, model, inputs, None))


def test_a_vanilla_rnn_of_haiku_with_one_bias():
    import haiku as hk

    def network(inputs):
        core = hk.VanillaRNN(4, double_bias=False)
        return hk.dynamic_unroll(core, inputs, core.initial_state(2), time_major=False)[0]

    model, inputs = hk.without_apply_rng(hk.transform(network)), normal(0, 2, 3, 3)
    weights = harness.redrawn(model.init(jax.random.key(0), inputs), 0)
    layer = interop.haiku.layer_for(weights)
    assert "b" not in weights["vanilla_rnn/linear_1"]
    outputs = layer.apply(interop.haiku.import_weights(layer, weights), inputs)[1]
    np.testing.assert_allclose(outputs, model.apply(weights, inputs), rtol=1e-5, atol=1e-5)
    assert sorted(flatten(weights)) == ["vanilla_rnn/linear/b", "vanilla_rnn/linear/w", "vanilla_rnn/linear_1/w"]
