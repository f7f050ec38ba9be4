"""The real torch."""

import pickle

import hypothesis
import jax
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.arithmetic import known
from flaxrnn.interop.places import places
from tests.compare import assert_close, assert_equal, normal, random_params
from tests.interop import harness
from tests.peers.peer import peer

torch = peer("torch")

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

CELLS = {
    "lstm": lambda hidden: LSTM(hidden),
    "lstm_projection": lambda hidden: LSTM(hidden + 1, projection_size=hidden),
    "gru": lambda hidden: GRU(hidden),
    "rnn_tanh": lambda hidden: Elman(hidden),
    "rnn_relu": lambda hidden: Elman(hidden, activation=relu),
}


def module_of(layer, inputs, dtype):
    """The module of torch's that a layer is."""
    found = places(layer)
    cell, directions = found[0].cell, 2 if found[0].direction else 1
    options = {
        "num_layers": len(found) // directions,
        "bidirectional": directions == 2,
        "bias": cell.use_bias,
        "batch_first": True,
        "dtype": getattr(torch, str(dtype)),
    }
    if isinstance(cell, LSTM):
        return torch.nn.LSTM(inputs, cell.hidden_size, proj_size=cell.projection_size or 0, **options)
    if isinstance(cell, GRU):
        return torch.nn.GRU(inputs, cell.hidden_size, **options)
    nonlinearity = "relu" if known(cell.activation) is relu else "tanh"
    return torch.nn.RNN(inputs, cell.hidden_size, nonlinearity=nonlinearity, **options)


def run(layer, weights, inputs, lengths):
    module = module_of(layer, inputs.shape[-1], inputs.dtype)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    x = torch.from_numpy(inputs)
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
        )
    outputs, final = module(x)
    if lengths is not None:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
    final = final if isinstance(final, tuple) else (final,)
    states = [[state[k].detach().numpy() for state in final] for k in range(len(final[0]))]
    return outputs.detach().numpy(), states


@pytest.mark.parametrize("name", CELLS)
@harness.SETTINGS
@hypothesis.given(harness.sizes())
def test_agrees(name, example):
    harness.check(interop.torch, CELLS[name](example.hidden), example, run)


@pytest.mark.parametrize("name", CELLS)
@harness.SETTINGS
@hypothesis.given(harness.sizes(dtypes=("float32",)))
def test_layer_for(name, example):
    layer = example.layer(CELLS[name](example.hidden))
    module = module_of(layer, example.inputs, np.dtype("float32"))
    assert interop.torch.layer_for(module) == layer
    if name != "rnn_relu":  # which a state dict does not say
        assert interop.torch.layer_for(module.state_dict()) == layer


def test_layer_for_keeps_dropout():
    assert interop.torch.layer_for(torch.nn.GRU(3, 4, 2, dropout=0.25)).dropout == 0.25


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_single_cell(kind):
    torch.manual_seed(0)
    cell = getattr(torch.nn, kind)(3, 4)
    layer = interop.torch.layer_for(cell)
    params = interop.torch.import_weights(layer, cell.state_dict())
    inputs = normal(0, 5, 1, 3)
    final = cell(torch.from_numpy(inputs[:, 0]))
    state, _ = layer.apply(params, inputs)
    assert_close(list(state), [x.detach().numpy() for x in (final if isinstance(final, tuple) else (final,))])


def test_a_part_of_a_larger_module_without_biases():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"rnn": torch.nn.LSTM(3, 4, bias=False, batch_first=True), "head": torch.nn.Linear(4, 2)}
    )
    layer = RNN(LSTM(4))  # with biases of zero
    assert interop.torch.layer_for(model["rnn"]) == RNN(LSTM(4, use_bias=False))
    params = interop.torch.import_weights(layer, model.state_dict(), prefix="rnn.")
    inputs = normal(0, 2, 5, 3)
    assert_close(layer.apply(params, inputs)[1], model["rnn"](torch.from_numpy(inputs))[0].detach().numpy())
    with pytest.raises(
        ValueError, match=r"^head.weight, head.bias, rnn.weight_ih_l0, rnn.weight_hh_l0: no recurrent cell"
    ):
        interop.torch.import_weights(layer, dict(sorted(model.state_dict().items(), key=lambda item: "rnn" in item[0])))


def test_bfloat16_comes_over_bit_for_bit():
    module = torch.nn.GRU(3, 4, dtype=torch.bfloat16)
    params = interop.torch.import_weights(RNN(GRU(4)), module.state_dict())
    assert params["kernel"].dtype == jax.numpy.bfloat16
    expected = module.weight_ih_l0.detach().float().numpy().T
    np.testing.assert_array_equal(np.asarray(params["kernel"], np.float32), expected)


STATE = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "bias_hh_l0": (16,)}
ERRORS = {
    "missing": (STATE, {"bias_hh_l0": None}, r"there is no bias_hh_l0, which LSTM\(hidden_size=4\) needs, but"),
    "misshaped": (
        STATE,
        {"bias_hh_l0": (15,)},
        r"bias_hh_l0 has the shape \[15\], but LSTM\(hidden_size=4\) takes \[16\]",
    ),
    "unknown": (STATE, {"head.weight": (2, 4)}, r"head.weight: no recurrent cell of torch has these alone"),
    "a layer more": (
        STATE,
        {name.replace("l0", "l1"): shape for name, shape in STATE.items()},
        r"the layer's cells are 1 \(LSTM\(hidden_size=4\)\), but those in the weights are 2 \(l0, l1\)",
    ),
    "a gap": (
        STATE,
        {name.replace("l0", "l2"): shape for name, shape in STATE.items()},
        "there is no weight_ih_l1, but weight_ih_l0, weight_ih_l2",
    ),
    "some biases": (
        STATE,
        {"weight_ih_l1": (16, 4), "weight_hh_l1": (16, 4)},
        "there is no bias_ih_l1, but there is bias_ih_l0: pass all biases or none",
    ),
    "a vector": (STATE, {"weight_hh_l0": (16,)}, r"weight_hh of l0 has the shape \[16\]: pass a matrix"),
    "biases": (STATE, {}, r"an entry bias_hh_l0, which LSTM\(hidden_size=4, use_bias=False\) has not"),
    "another kind": (
        STATE,
        {"weight_hh_l0": (12, 4)},
        r"weight_hh_l0 has the shape \[12, 4\], but LSTM\(hidden_size=4\) takes",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_weights(name):
    shapes, change, message = ERRORS[name]
    shapes = {key: shape for key, shape in (shapes | change).items() if shape}
    state_dict = {key: normal(k, *shape) for k, (key, shape) in enumerate(shapes.items())}
    with pytest.raises(ValueError, match=message):
        interop.torch.import_weights(RNN(LSTM(4, use_bias=name != "biases")), state_dict)


INEXPRESSIBLE = {
    "peephole": (RNN(LSTM(4, peephole=True)), "torch has no LSTM with peephole=True, only False"),
    "coupled": (RNN(LSTM(4, coupled=True)), "torch has no LSTM with coupled=True"),
    "clip": (RNN(LSTM(4, cell_clip=1.0)), "torch has no LSTM with cell_clip=1.0"),
    "reset before": (
        RNN(GRU(4, reset_after=False)),
        "torch has no GRU with reset_after=False, only True: its reset gate acts after the matrix product",
    ),
    "layer norm": (RNN(GRU(4, layer_norm=True)), "torch has no GRU with layer_norm=True"),
    "sigmoid": (RNN(Elman(4, activation=jax.nn.sigmoid)), "torch has no Elman with activation=sigmoid, only tanh or"),
    "reverse": (RNN(GRU(4), reverse=True), "torch has no layer that reads backwards alone"),
    "sum": (
        Bidirectional(GRU(4), GRU(4), merge="sum"),
        "torch concatenates the outputs of its directions, but merge is",
    ),
    "sizes": (Bidirectional(GRU(4), GRU(5)), "torch's layers are all alike"),
    "activations": (Stack([RNN(Elman(4)), RNN(Elman(4, activation=relu))]), "alike, in kind, in size, in options"),
    "activations of directions": (Bidirectional(Elman(4, activation=relu), Elman(4)), "torch's layers are all alike"),
    "one projection": (Stack([RNN(LSTM(2, projection_size=2)), RNN(LSTM(2))]), "torch's layers are all alike"),
    "include_initial": (RNN(GRU(4), include_initial=True), "one output for each input, but the layer has include_init"),
    "residual": (Stack([RNN(GRU(4)), RNN(GRU(4))], residual=True), "torch has no residual connections"),
    "residual within": (
        Stack([RNN(GRU(4)), Stack([RNN(GRU(4)), RNN(GRU(4))], residual=True)]),
        "torch has no residual connections",
    ),
}


def test_what_training_begins_with_makes_no_difference():
    layer = Stack([RNN(LSTM(4, forget_bias=0.5, input_dropout=0.1)), RNN(LSTM(4))])
    params = random_params(layer, 3)
    assert_equal(interop.torch.import_weights(layer, interop.torch.export_weights(layer, params)), params)


def test_jax_own_functions_are_recognised_and_ours_can_be_pickled():
    mixed = Bidirectional(Elman(4, activation=jax.nn.relu), Elman(4, activation=relu))
    module = torch.nn.RNN(3, 4, nonlinearity="relu", bidirectional=True)
    layer = interop.torch.layer_for(module)
    assert pickle.loads(pickle.dumps(layer)) == layer
    params = interop.torch.import_weights(layer, module.state_dict())
    assert_equal(interop.torch.export_weights(mixed, params), interop.torch.export_weights(layer, params))


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_what_torch_has_not(name):
    layer, message = INEXPRESSIBLE[name]
    with pytest.raises(ValueError, match=message):
        interop.torch.export_weights(layer, random_params(layer, 3))


def test_several_dtypes():
    state_dict = {name: np.ones(shape, np.float32) for name, shape in STATE.items()}
    state_dict["bias_hh_l0"] = state_dict["bias_hh_l0"].astype(np.float16)
    with pytest.raises(TypeError, match=r"the weights of one cell are in several dtypes: .*bias_hh_l0 in float16"):
        interop.torch.import_weights(RNN(LSTM(4)), state_dict)


def test_a_module_in_the_place_of_its_weights():
    with pytest.raises(
        TypeError, match=r"pass arrays by name, or a tree of them, such as module.state_dict\(\) of torch"
    ):
        interop.torch.import_weights(RNN(LSTM(4)), torch.nn.LSTM(3, 4))


def test_integers_outside_of_the_prefix_do_not_matter():
    model = torch.nn.ModuleDict(
        {"rnn": torch.nn.GRU(3, 4), "rnn2": torch.nn.GRU(5, 6), "norm": torch.nn.BatchNorm1d(4)}
    )
    assert interop.torch.layer_for(model.state_dict(), prefix="rnn") == RNN(GRU(4))
    with pytest.raises(
        TypeError, match=r"norm.num_batches_tracked is not an array of floating-point numbers.*by prefix"
    ):
        interop.torch.layer_for(model.state_dict())


def test_float64_needs_x64():
    with pytest.raises(TypeError, match="kernel is in float64, which JAX has not switched on"):
        interop.torch.import_weights(RNN(LSTM(4)), {name: np.ones(shape) for name, shape in STATE.items()})
