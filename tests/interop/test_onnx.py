"""The real ONNX Runtime, on models that are written here, by `onnx.helper` and by torch."""

import dataclasses
import io
import warnings

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.arithmetic import sigmoid
from flaxrnn.interop.places import places
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.interop import harness
from tests.peers.peer import peer
from tests.tiers import tiers

onnxruntime = peer("onnxruntime")

CELLS = {
    "lstm": lambda hidden: LSTM(hidden),
    "lstm_peephole": lambda hidden: LSTM(hidden, peephole=True),
    "lstm_coupled": lambda hidden: LSTM(hidden, coupled=True),
    "lstm_coupled_peephole": lambda hidden: LSTM(hidden, coupled=True, peephole=True),
    "gru": lambda hidden: GRU(hidden),
    "gru_reset_before": lambda hidden: GRU(hidden, reset_after=False),
    "rnn_tanh": lambda hidden: Elman(hidden),
    "rnn_relu": lambda hidden: Elman(hidden, activation=relu),
    "rnn_sigmoid": lambda hidden: Elman(hidden, activation=sigmoid),
}


def call(model, values):
    """What ONNX Runtime makes of a model's inputs, by the names of the outputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, values), strict=True))


def names_of(layer):
    """What a model calls each cell's states, before `hidden` and `cell`."""
    return [
        (f"layer_{place.number}_" if place.number is not None else "")
        + (f"{place.direction}_" if place.direction else "")
        for place in places(layer)
    ]


def run_model(layer, model, inputs, lengths, initial=None):
    values = {"inputs": inputs}
    if lengths is not None:
        values["lengths"] = lengths.astype(np.int32)
    for prefix, state in zip(names_of(layer), initial or [], strict=False):
        values |= {f"initial_{prefix}{field}": np.asarray(value) for field, value in state._asdict().items()}
    made = call(model, values)
    states = [
        [made[prefix + field] for field in ("hidden", "cell") if prefix + field in made] for prefix in names_of(layer)
    ]
    return made["outputs"], states


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_coupled_peephole", "gru", "gru_reset_before", "rnn_relu"}))
@harness.SETTINGS
@hypothesis.given(harness.sizes(dtypes=("float32",)))
def test_agrees(name, example):
    cell = CELLS[name](example.hidden)

    def run(layer, weights, inputs, lengths):
        params = interop.onnx.import_weights(layer, weights)
        model = interop.onnx.export_model(layer, params, lengths=lengths is not None)
        assert interop.onnx.layer_for(model) == layer
        assert_equal(interop.onnx.import_weights(layer, model), params)
        return run_model(layer, model, inputs, lengths)

    harness.check(interop.onnx, cell, example, run)


def test_outputs_come_before_states(capfd):
    layer = Stack([RNN(LSTM(4)), RNN(GRU(4))])
    model = interop.onnx.export_model(layer, random_params(layer, 3))
    names = ["outputs", "layer_0_hidden", "layer_0_cell", "layer_1_hidden"]
    assert list(call(model, {"inputs": normal(0, 2, 5, 3)})) == names
    assert capfd.readouterr().err == ""  # no warning of initializers that are not used


LAYERS = {
    "reverse": RNN(GRU(4), reverse=True),
    "sum": Bidirectional(LSTM(4), LSTM(4), merge="sum"),
    "mean": Bidirectional(GRU(4), GRU(4), merge="mean"),
    "mul": Bidirectional(Elman(4), Elman(4), merge="mul"),
    "different": Bidirectional(LSTM(4), GRU(5)),
    "residual": Stack([RNN(GRU(4)), RNN(LSTM(4), reverse=True), Bidirectional(GRU(4), GRU(4), "mean")], residual=True),
    "mixed": Stack([Bidirectional(LSTM(3, peephole=True), Elman(4)), Stack([RNN(GRU(2))])], dropout=0.5),
}


@pytest.mark.parametrize("with_initial", [False, True], ids=["", "initial"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, with_initial):
    layer = LAYERS[name]
    params, inputs, lengths = random_params(layer, 3), normal(0, 4, 6, 3), np.array([6, 2, 1, 4])
    initial = random_state(layer, (4,)) if with_initial else None
    model = interop.onnx.export_model(layer, params, lengths=True, initial_state=with_initial)
    cells = jax.tree.leaves(initial, is_leaf=lambda x: hasattr(x, "_fields")) if with_initial else None
    outputs, states = run_model(layer, model, inputs, lengths, cells)
    state, ours = layer.apply(params, inputs, lengths=lengths, initial_state=initial)
    valid = np.arange(6) < lengths[:, None]
    np.testing.assert_allclose(ours, outputs * valid[..., None], rtol=1e-5, atol=1e-5)
    assert_close(jax.tree.leaves(state), [array for state in states for array in state])


def operator(kind, directions=1, size=4, **attributes):
    """A model of one operator, as somebody else would write it: `[time, batch, features]`, no biases."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = {"W": normal(1, directions, gates * size, 3), "R": normal(2, directions, gates * size, size)}
    helper = onnx.helper
    node = helper.make_node(kind, ["X", "W", "R"], ["Y"], name="cell", hidden_size=size, **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("X", onnx.TensorProto.FLOAT, [None, None, 3])],
        [value("Y", onnx.TensorProto.FLOAT, [None, directions, None, size])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("kind", "attributes", "layer"),
    [
        ("LSTM", {"input_forget": 1}, RNN(LSTM(4, coupled=True, use_bias=False))),
        ("GRU", {"direction": "reverse"}, RNN(GRU(4, reset_after=False, use_bias=False), reverse=True)),
        ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Tanh"]}, RNN(GRU(4, use_bias=False))),
        (
            "RNN",
            {"direction": "bidirectional", "activations": ["Relu", "Tanh"], "directions": 2},
            Bidirectional(Elman(4, activation=relu, use_bias=False), Elman(4, use_bias=False)),
        ),
    ],
)
def test_a_foreign_model(kind, attributes, layer):
    model = operator(kind, **attributes)
    assert interop.onnx.layer_for(model) == layer
    params = interop.onnx.import_weights(layer, model)
    inputs = normal(0, 2, 5, 3)
    expected = call(model, {"X": inputs.swapaxes(0, 1)})["Y"]  # [time, directions, batch, size]
    expected = np.moveaxis(expected, 2, 0).reshape(2, 5, -1)
    assert_close(layer.apply(params, inputs)[1], expected)
    if kind == "GRU":  # with biases of zero
        layer = RNN(dataclasses.replace(layer.cell, use_bias=True), reverse=layer.reverse)
        assert_close(layer.apply(interop.onnx.import_weights(layer, model), inputs)[1], expected)


def test_a_model_of_torchs():
    torch = peer("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True).eval()
    inputs, file = normal(0, 2, 5, 3), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own exporter of older days, which needs no further package
        torch.onnx.export(module, (torch.from_numpy(inputs),), file, dynamo=False)
    model = onnx.load_from_string(file.getvalue())
    layer = interop.onnx.layer_for(model)
    assert layer == Stack([Bidirectional(LSTM(4), LSTM(4))] * 2)
    params = interop.onnx.import_weights(layer, model)
    assert_close(layer.apply(params, inputs)[1], module(torch.from_numpy(inputs))[0].detach().numpy())


WRONG = {
    "clip": (operator("LSTM", clip=1.0), "cell has the attribute clip, for which flaxrnn has no cell"),
    "activation": (operator("RNN", activations=["Softsign"]), "cell has the activation Softsign: there are Tanh, Relu"),
    "activations": (
        operator("GRU", activations=["Sigmoid", "Relu"]),
        "cell has the activations Sigmoid, Relu: flaxrnn's",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_flaxrnn_has_not(name):
    model, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        interop.onnx.layer_for(model)


def test_weights_that_are_computed():
    model = operator("GRU")
    del model.graph.initializer[0]
    with pytest.raises(ValueError, match="cell: its W, 'W', is no constant of the graph"):
        interop.onnx.layer_for(model)


@pytest.mark.parametrize("kind", ["Expand", "Add"])
def test_an_initial_state_of_its_own(kind):
    model = operator("GRU")
    helper = onnx.helper
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full([1, 1, 4], 0.5, np.float32), "h0"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2, 4]), "shape"))
    second = "shape" if kind == "Expand" else "h0"
    model.graph.node.insert(0, helper.make_node(kind, ["h0", second], ["h"]))
    model.graph.node[1].input.extend(["", "", "h"])
    with pytest.raises(ValueError, match="cell: its initial_h is neither zero nor an input"):
        interop.onnx.layer_for(model)
    model.graph.initializer[-2].CopyFrom(onnx.numpy_helper.from_array(np.zeros([1, 1, 4], np.float32), "h0"))
    if kind == "Expand":
        assert interop.onnx.layer_for(model) == RNN(GRU(4, reset_after=False, use_bias=False))


def test_lengths_of_its_own():
    model = operator("GRU")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, 2], np.int32), "lengths"))
    model.graph.node[0].input.extend(["", "lengths"])
    with pytest.raises(ValueError, match="cell: its sequence_lens are constants of the graph"):
        interop.onnx.layer_for(model)


@pytest.mark.parametrize("opset", [14, 18, 22])
def test_versions_of_operators(opset):
    layer = Bidirectional(LSTM(4), LSTM(4))
    params, inputs = random_params(layer, 3), normal(0, 2, 5, 3)
    model = interop.onnx.export_model(layer, params, opset=opset)
    assert_close(layer.apply(params, inputs)[1], call(model, {"inputs": inputs})["outputs"])
    with pytest.raises(ValueError, match="opset is 13: pass a version from 14 to"):
        interop.onnx.export_model(layer, params, opset=13)


def test_no_operator():
    model = operator("GRU")
    del model.graph.node[0]
    with pytest.raises(ValueError, match="the model has no LSTM, GRU or RNN operator"):
        interop.onnx.layer_for(model)


def test_the_layer_of_another_model():
    with pytest.raises(ValueError, match=r"the layer is RNN\(cell=GRU\(hidden_size=4\).*but the model is of"):
        interop.onnx.import_weights(RNN(GRU(4)), operator("LSTM"))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (RNN(LSTM(4, projection_size=2)), "ONNX has no LSTM with projection_size=2"),
        (RNN(LSTM(4, cell_clip=1.0)), "ONNX has no LSTM with cell_clip=1.0"),
        (RNN(Elman(4, activation=jnp.sin)), "ONNX has no Elman with activation=sin, only tanh or relu or sigmoid"),
        (Bidirectional(GRU(4), GRU(4), merge=None), "the layer has a pair of outputs"),
        (RNN(GRU(4), include_initial=True), "the layer has include_initial=True"),
        (Stack([RNN(GRU(4)), Stack([RNN(GRU(4))] * 2, residual=True)]), "residual connections and a stack within a"),
    ],
    ids=["projection", "clip", "sine", "pair", "initial", "residual"],
)
def test_what_onnx_has_not(layer, message):
    with pytest.raises(ValueError, match=message):
        interop.onnx.export_model(layer, random_params(layer, 3))


def test_bfloat16():
    layer = RNN(GRU(4))
    with pytest.raises(TypeError, match="params are in bfloat16: cast them to float32"):
        interop.onnx.export_model(layer, random_params(layer, 3, dtype=jnp.bfloat16))


def test_float64_is_a_valid_model(x64):
    layer = Stack([Bidirectional(LSTM(4), LSTM(4))] * 2)
    model = interop.onnx.export_model(layer, random_params(layer, 3, dtype=jnp.float64))  # checked as it is made
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
