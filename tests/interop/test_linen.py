"""The real flax.linen."""

import flax.linen as nn
import hypothesis
import jax
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, MGU, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.places import places, plain_layers
from tests.compare import assert_close, normal, random_params
from tests.interop import harness
from tests.tiers import tiers

CELLS = {
    "LSTMCell": (LSTM, nn.LSTMCell),
    "OptimizedLSTMCell": (LSTM, nn.OptimizedLSTMCell),
    "GRUCell": (GRU, nn.GRUCell),
    "SimpleCell": (Elman, nn.SimpleCell),
}


def module_of(part, kind, dtype):
    """The module of linen's that an RNN or a Bidirectional is."""

    def rnn(cell):
        return nn.RNN(kind(cell.hidden_size, param_dtype=dtype), return_carry=True)

    if isinstance(part, RNN):
        return rnn(part.cell)
    return nn.Bidirectional(rnn(part.forward), rnn(part.backward), return_carry=True)


def runner(kind):
    def run(layer, weights, inputs, lengths):
        values, states = inputs, []
        for k, part in enumerate(plain_layers(layer)):
            tree = weights["params"][f"layers_{k}"] if isinstance(layer, Stack) else weights["params"]
            module = module_of(part, kind, inputs.dtype)
            carry, values = module.apply({"params": tree}, values, seq_lengths=lengths)
            carries = [carry] if len(places(part)) == 1 else carry
            states += [[one[1], one[0]] if isinstance(one, tuple) else [one] for one in carries]
        return values, states

    return run


@pytest.mark.parametrize("name", tiers(CELLS, {"GRUCell", "OptimizedLSTMCell"}))
@harness.SETTINGS
@hypothesis.given(harness.sizes())
def test_agrees(name, example):
    cell, kind = CELLS[name]
    harness.check(interop.linen, cell(example.hidden), example, runner(kind))


@pytest.mark.slow
def test_cells_are_found_wherever_they_are():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            for _ in range(11):  # OptimizedLSTMCell_10 stands before OptimizedLSTMCell_2
                inputs = nn.RNN(nn.OptimizedLSTMCell(4))(inputs)
            return inputs

    inputs = normal(0, 2, 5, 3)
    network = Network()
    variables = network.init(jax.random.key(0), inputs)
    layer = interop.linen.layer_for(variables)
    assert layer == Stack([RNN(LSTM(4))] * 11)
    params = interop.linen.import_weights(layer, variables)
    assert_close(layer.apply(params, inputs)[1], network.apply(variables, inputs))


def test_layer_for_modules():
    module = nn.Sequential(
        [
            nn.RNN(nn.SimpleCell(4, activation_fn=jax.nn.relu), reverse=True, keep_order=True),
            nn.Bidirectional(nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.GRUCell(5))),
        ]
    )
    layer = interop.linen.layer_for(module)
    assert layer == Stack([RNN(Elman(4, activation=relu), reverse=True), Bidirectional(LSTM(3), GRU(5))])
    weights = interop.linen.export_weights(layer, random_params(layer, 3))
    given = module.init(jax.random.key(0), normal(0, 2, 5, 3))
    assert jax.tree.map(jax.numpy.shape, weights) == jax.tree.map(jax.numpy.shape, given)


WRONG = {
    "residual": (nn.RNN(nn.SimpleCell(4, residual=True)), ValueError, "SimpleCell with residual=True"),
    "relu": (nn.RNN(nn.LSTMCell(4, activation_fn=jax.nn.relu)), ValueError, "activations of its own"),
    "mgu": (nn.RNN(nn.MGUCell(4)), TypeError, "MGUCell"),
    "dense": (nn.Dense(4), TypeError, "pass an RNN, a Bidirectional or a Sequential of LSTMCell"),
    "order": (
        nn.Sequential([nn.RNN(nn.GRUCell(4), reverse=True), nn.RNN(nn.GRUCell(4))]),
        ValueError,
        "below others with reverse=True and without keep_order=True",
    ),
    "merge": (
        nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)), merge_fn=lambda a, b: a + b),
        ValueError,
        "a merge_fn of its own",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_layer_for_what_flaxrnn_has_not(name):
    module, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        interop.linen.layer_for(module)


def test_weights_of_an_mgu():
    variables = nn.RNN(nn.MGUCell(4)).init(jax.random.key(0), normal(0, 2, 5, 3))
    with pytest.raises(ValueError, match="params/cell is an MGUCell: its h' = "):
        interop.linen.layer_for(variables)


@pytest.mark.parametrize("cell", [MGU(4), GRU(4, reset_after=False), LSTM(4, peephole=True)], ids=str)
def test_what_linen_has_not(cell):
    with pytest.raises(ValueError, match=r"flax.linen has no "):
        interop.linen.export_weights(RNN(cell), random_params(cell, 3))
