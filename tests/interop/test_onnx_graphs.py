"""The graphs of ONNX models, followed from their outputs; ONNX Runtime and ONNX's own tests say what is right."""

import importlib
import pickle
import sys

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from tests.compare import assert_close, assert_equal, normal, random_params
from tests.interop.test_onnx import call, run_model
from tests.peers.peer import peer

peer("onnxruntime")

UNEQUAL = {
    "peephole": Bidirectional(LSTM(3), LSTM(3, peephole=True)),
    "peephole first": Bidirectional(LSTM(3, peephole=True), LSTM(3)),
    "coupled": Bidirectional(LSTM(3, coupled=True), LSTM(3)),
    "reset": Bidirectional(GRU(3), GRU(3, reset_after=False)),
    "kind": Bidirectional(GRU(3), LSTM(3)),
    "size": Bidirectional(GRU(3), GRU(2)),
    "activation": Bidirectional(Elman(3), Elman(3, activation=relu), merge="mean"),
    "sum": Bidirectional(GRU(3), LSTM(3), merge="sum"),
    "mul": Bidirectional(LSTM(3), LSTM(3), merge="mul"),
    "stack": Stack([Bidirectional(GRU(2), LSTM(1)), RNN(GRU(3), reverse=True), Bidirectional(GRU(3), GRU(3), "sum")]),
    "residual": Stack([RNN(GRU(4)), Bidirectional(LSTM(4), GRU(4), "mean"), RNN(LSTM(4))], residual=True),
    "residual sums": Stack(
        [Bidirectional(GRU(3), GRU(3), "sum"), Bidirectional(LSTM(3), GRU(3), "sum")], residual=True
    ),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_layer_comes_back(name):
    layer = UNEQUAL[name]
    params, inputs = random_params(layer, 3), normal(0, 2, 5, 3)
    model = interop.onnx.export_model(layer, params)
    assert interop.onnx.layer_for(model) == layer
    assert_equal(interop.onnx.import_weights(layer, model), params)
    state, outputs = layer.apply(params, inputs)
    theirs, states = run_model(layer, model, inputs, None)
    assert_close(outputs, theirs)
    assert_close(jax.tree.leaves(state), [array for cell in states for array in cell])


class Model:
    """A model that somebody else wrote, node by node; `x` is `[time, batch, 3]`."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind}{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def rnn(self, kind, x, size=3, features=3, direction="forward", **attributes):
        """The outputs `[time, directions, batch, size]` of an operator."""
        gates, count = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
        seed = len(self.nodes)
        weights = [self.constant(normal(seed + k, count, gates * size, n)) for k, n in enumerate((features, size))]
        return self.node(kind, x, *weights, hidden_size=size, direction=direction, **attributes)

    def one(self, *arguments, **options):
        """The outputs `[time, batch, size]` of one direction."""
        return self.node("Squeeze", self.rnn(*arguments, **options), self.constant(np.array([1])))

    def build(self, *outputs, rank=3):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "g",
            [value("x", TensorProto.FLOAT, ["time", "batch", 3])],
            [value(name, TensorProto.FLOAT, [None] * rank) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def parallel(merge, *, swapped=False):
    """Two operators side by side, each behind a transposition of its own."""
    model = Model()
    there = model.node("Transpose", "x", perm=[1, 0, 2])
    values = [
        model.one(kind, model.node("Transpose", there, perm=[1, 0, 2]), direction=direction)
        for kind, direction in (("GRU", "forward"), ("LSTM", "reverse"))
    ][:: -1 if swapped else 1]
    if merge == "half":
        return model.build(model.node("Div", model.node("Add", *values), model.constant(np.float32(2))))
    return model.build(model.node(merge, *values, **({"axis": 2} if merge == "Concat" else {})))


def both(merge):
    """One operator in both directions, of which the outputs are merged in one of many ways."""
    model = Model()
    y = model.rnn("GRU", "x", direction="bidirectional")

    def ints(*numbers):
        return model.constant(np.array(numbers))

    flat = model.node("Reshape", model.node("Transpose", y, perm=[0, 2, 1, 3]), ints(0, 0, -1))
    if merge == "reshape":
        return model.build(flat)
    if merge == "reduce":
        return model.build(model.node("ReduceSum", y, ints(1), keepdims=0))
    if merge == "apart":
        return model.build(y, rank=4)
    if merge == "gather":
        halves = [model.node("Gather", y, model.constant(np.array(k)), axis=1) for k in range(2)]
        return model.build(model.node("Mul", *halves))
    if merge == "split":
        return model.build(model.node("Add", *model.node("Split", flat, ints(3, 3), axis=2, outputs=2)))
    halves = [model.node("Slice", flat, ints(k), ints(end), ints(2)) for k, end in ((0, 3), (3, 2**62))]
    return model.build(model.node("Sum", *halves))


def in_between(kind):
    """A stack with something between its two layers, or beside them."""
    model = Model()
    first = model.one("GRU", "x")
    if kind == "residual":
        return model.build(model.node("Add", model.one("GRU", first), first))
    if kind == "residual below":
        return model.build(model.one("GRU", model.node("Add", model.one("GRU", first), first)))
    return model.build(model.one("LSTM", model.node("Dropout", model.node("Identity", first))))


def with_head():
    model = Model()
    y = model.one("LSTM", model.node("Tanh", "x"))
    logits = model.node("Add", model.node("MatMul", y, model.constant(normal(5, 3, 2))), model.constant(normal(6, 2)))
    return model.build(model.node("Softmax", logits))


GRU_, LSTM_ = GRU(3, reset_after=False, use_bias=False), LSTM(3, use_bias=False)
READ = {
    "concat": (lambda: parallel("Concat"), Bidirectional(GRU_, LSTM_)),
    "sum": (lambda: parallel("Add"), Bidirectional(GRU_, LSTM_, "sum")),
    "sum swapped": (lambda: parallel("Sum", swapped=True), Bidirectional(GRU_, LSTM_, "sum")),
    "mean": (lambda: parallel("Mean"), Bidirectional(GRU_, LSTM_, "mean")),
    "half": (lambda: parallel("half"), Bidirectional(GRU_, LSTM_, "mean")),
    "mul": (lambda: parallel("Mul"), Bidirectional(GRU_, LSTM_, "mul")),
    "reshape": (lambda: both("reshape"), Bidirectional(GRU_, GRU_)),
    "reduce": (lambda: both("reduce"), Bidirectional(GRU_, GRU_, "sum")),
    "gather": (lambda: both("gather"), Bidirectional(GRU_, GRU_, "mul")),
    "split": (lambda: both("split"), Bidirectional(GRU_, GRU_, "sum")),
    "slice": (lambda: both("slice"), Bidirectional(GRU_, GRU_, "sum")),
    "residual": (lambda: in_between("residual"), Stack([RNN(GRU_)] * 2, residual=True)),
    "residual below": (
        lambda: in_between("residual below"),
        Stack([Stack([RNN(GRU_)] * 2, residual=True), RNN(GRU_)]),
    ),
    "identity": (lambda: in_between("identity"), Stack([RNN(GRU_), RNN(LSTM_)])),
}


@pytest.mark.parametrize("name", READ)
def test_a_graph_is_read(name):
    make, layer = READ[name]
    model = make()
    assert interop.onnx.layer_for(model) == layer
    inputs = normal(0, 2, 5, 3)
    (theirs,) = call(model, {"x": inputs.swapaxes(0, 1)}).values()
    _, outputs = layer.apply(interop.onnx.import_weights(layer, model), inputs)
    assert_close(outputs, theirs.swapaxes(0, 1))


def test_what_is_around_the_network_is_left_out():
    assert interop.onnx.layer_for(with_head()) == RNN(LSTM_)
    assert interop.onnx.layer_for(both("apart")) == Bidirectional(GRU_, GRU_)


def refused(kind):
    model = Model()
    first = model.one("GRU", "x")
    if kind == "relu":
        return model.build(model.one("GRU", model.node("Relu", first)))
    if kind == "first residual":
        return model.build(model.node("Add", first, "x"))
    if kind == "across":
        second = model.one("GRU", first)
        return model.build(model.node("Add", model.one("GRU", second), first))
    if kind == "two forward":
        return model.build(model.node("Concat", first, model.one("GRU", "x"), axis=2))
    if kind == "of different inputs":
        return model.build(model.node("Concat", first, model.one("GRU", first, direction="reverse"), axis=2))
    if kind == "two networks":
        return model.build(first, model.one("GRU", "x"))
    if kind == "batch for time":
        return model.build(model.one("GRU", model.node("Transpose", first, perm=[1, 0, 2])))
    return parallel("Concat", swapped=True)


REFUSED = {
    "relu": "reads what Relu2 makes of the outputs of GRU0: flaxrnn's layers have nothing in between",
    "first residual": "adds what its first recurrent layer reads to what it gives",
    "across": r"merges the outputs of GRU4 over GRU2 over GRU0 with those of GRU0 \(by sum\)",
    "two forward": r"merges the outputs of GRU0 with those of GRU2 \(by concat\), for which flaxrnn has no layer",
    "of different inputs": r"merges the outputs of GRU0 with those of GRU2 over GRU0 \(by concat\)",
    "two networks": r"made of its recurrent operators in 2 ways \(GRU0; GRU2\)",
    "batch for time": "reads along another axis than the operators below it",
    "swapped": "one that reads forward and one that reads backward, in this order",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_flaxrnn_has_not_is_refused(kind):
    with pytest.raises(ValueError, match=REFUSED[kind]):
        interop.onnx.layer_for(refused(kind))


def cases(monkeypatch):
    """ONNX's own node tests of recurrent operators: `(node, inputs, outputs, name)`."""
    found = []
    package = importlib.import_module("onnx.backend.test.case.node")
    monkeypatch.setattr(package, "expect", lambda *node, **case: found.append((*node, *case.values())))
    for name in ("gru", "lstm", "rnn"):
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
        importlib.import_module(f"{package.__name__}.{name}")  # which runs them
    return found


def values(names, arrays):
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]


def test_the_node_tests_of_onnx(monkeypatch):
    found = cases(monkeypatch)
    assert len(found) == 18
    for node, inputs, outputs, name in found:
        given, made = ([value for value in names if value] for names in (node.input, node.output))
        graph = helper.make_graph([node], name, values(given, inputs), values(made, outputs))
        model = helper.make_model(graph)
        given, expected = (dict(zip(*both, strict=True)) for both in ((given, inputs), (made, outputs)))
        with pytest.raises(ValueError, match=r"^the \w+ that makes .*: its W is the input 'W' of the model: pass"):
            interop.onnx.layer_for(model)
        weights = {slot: given[slot] for slot in ("W", "R", "B", "P") if slot in given}
        layer = interop.onnx.layer_for(model, weights=weights)
        params = interop.onnx.import_weights(layer, model, weights=weights)
        batch_first = any(one.name == "layout" and one.i for one in node.attribute)
        x = given["X"] if batch_first else given["X"].swapaxes(0, 1)
        given_states = {
            slot: given[slot][:, 0] if batch_first else given[slot][0]
            for slot in ("initial_h", "initial_c")
            if slot in given
        }
        initial = type(layer.initial_state())(*given_states.values()) if given_states else None
        state, ours = layer.apply(params, x, initial_state=initial, lengths=given.get("sequence_lens"))
        for key, theirs in expected.items():
            if key == "Y":
                directions = theirs if batch_first else np.moveaxis(theirs, 2, 0)
                np.testing.assert_allclose(ours, directions.reshape(*ours.shape), rtol=1e-5, atol=1e-5, err_msg=name)
            elif key == "Y_h":
                hidden = [state.hidden] if isinstance(layer, RNN) else [one.hidden for one in state]
                final = np.stack(hidden, 1 if batch_first else 0)
                np.testing.assert_allclose(final, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_weights_that_are_no_inputs():
    model = parallel("Concat")
    with pytest.raises(ValueError, match="weights has W, but the inputs of the model are x"):
        interop.onnx.layer_for(model, weights={"W": np.zeros(3)})
    with pytest.raises(ValueError, match="weights are given beside arrays"):
        interop.onnx.layer_for({"W": np.zeros([3, 3])}, weights={})


def test_weights_of_wrong_shapes():
    model = parallel("Concat")
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(normal(0, 9, 3), model.graph.initializer[1].name))
    with pytest.raises(ValueError, match=r"its R has the shape \[9, 3\], but .* has \[1, 9, 3\]"):
        interop.onnx.layer_for(model)


DAMAGED = {
    "an input less": lambda node: node.input.pop(),
    "axes of another kind": lambda node: node.input.__setitem__(1, "c0"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_model_that_onnx_refuses(how):
    model = parallel("Concat")
    (node, *_) = [node for node in model.graph.node if node.op_type == ("Squeeze" if "axes" in how else "Transpose")]
    DAMAGED[how](node)
    with pytest.raises(ValueError, match=r"onnx\.checker refuses the model: "):
        interop.onnx.layer_for(model)


@pytest.mark.parametrize("activation", ["Tanh", "Relu", "Sigmoid"])
def test_what_is_read_can_be_pickled(activation):
    model = Model()
    layer = interop.onnx.layer_for(model.build(model.one("RNN", "x", activations=[activation])))
    assert pickle.loads(pickle.dumps(layer)) == layer
