"""Whole ONNX models: a graph of native recurrent operators from a layer."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arithmetic import arithmetic, named
from flaxrnn.interop.arrays import Arrays, DTypeError, listed
from flaxrnn.interop.onnx_layout import ACTIVATIONS, OPERATORS
from flaxrnn.interop.places import is_residual, plain_layers
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


class Graph:
    """The nodes, constants, inputs and outputs of a graph that is being made."""

    def __init__(self, dtype: np.dtype) -> None:
        try:
            self.kind = helper.np_dtype_to_tensor_dtype(dtype)
        except KeyError:
            self.kind = onnx.TensorProto.UNDEFINED
        if self.kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
            raise DTypeError(f"params are in {dtype}: cast them to float32, float64 or float16 for ONNX")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def node(self, operator: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; the name of its output, or a list of them."""
        names = [f"{operator}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{len(self.nodes)}", **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, name: str, value: Any) -> str:
        """Adds a constant, unless it is there already."""
        if name not in [constant.name for constant in self.constants]:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def input(self, name: str, shape: list[Any], kind: int | None = None) -> str:
        """Adds an input."""
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, shape))
        return name

    def output(self, name: str, value: str, shape: list[Any]) -> None:
        """Makes a value an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}_output"))
        self.outputs.append(helper.make_tensor_value_info(name, self.kind, shape))


def write_model(layer: Layer, arrays: Arrays, *, lengths: bool, initial_state: bool, opset: int) -> onnx.ModelProto:
    """A checked model of `layer`, with the arrays that ONNX's layout has of its parameters."""
    layers = plain_layers(layer)
    if not 14 <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f"opset is {opset}: pass a version from 14 to {onnx.defs.onnx_opset_version()}")
    nested = isinstance(layer, Stack) and any(isinstance(part, Stack) for part in layer.layers)
    if nested and is_residual(layer):
        raise ValueError("the layer has residual connections and a stack within a stack: pass one stack of all layers")
    for part in layers:
        if part.include_initial:
            raise ValueError("the layer has include_initial=True, but an ONNX model gives one output for each input")
        if isinstance(part, Bidirectional) and part.merge is None:
            raise ValueError("the layer has a pair of outputs (merge=None), but an ONNX model here has one: merge them")
    first = arrays[next(name for name in arrays if name.endswith("/W"))]
    if any(array.dtype != first.dtype for array in arrays.values()):
        dtypes = listed(f"{name} in {array.dtype}" for name, array in arrays.items())
        raise DTypeError(f"params are in several dtypes ({dtypes}), but an ONNX model is in one: cast them")
    graph = Graph(first.dtype)
    inputs = graph.input("inputs", ["batch", "time", first.shape[1]])
    steps = graph.input("lengths", ["batch"], onnx.TensorProto.INT32) if lengths else ""
    values = graph.node("Transpose", [inputs], perm=[1, 0, 2])
    residual = isinstance(layer, Stack) and layer.residual
    for number, part in enumerate(layers):
        prefix = f"layer_{number}_" if isinstance(layer, Stack) else ""
        above = _add_layer(graph, part, arrays, f"layer_{number}", prefix, values, steps, initial_state)
        values = graph.node("Add", [above, values]) if residual and number else above
    graph.output("outputs", graph.node("Transpose", [values], perm=[1, 0, 2]), ["batch", "time", layer.output_size])
    *states, outputs = graph.outputs
    model = helper.make_model(
        helper.make_graph(graph.nodes, "flaxrnn", graph.inputs, [outputs, *states], graph.constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        producer_name="flaxrnn",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_layer(
    graph: Graph,
    layer: RNN | Bidirectional,
    arrays: Arrays,
    path: str,
    prefix: str,
    values: str,
    steps: str,
    initial_state: bool,
) -> str:
    """Adds an operator, `[time, batch, features]` to the same, with its final states; two if its cells differ."""
    if isinstance(layer, RNN):
        groups = [([(layer.cell, path, prefix)], "reverse" if layer.reverse else "forward")]
    else:
        both = [
            (layer.forward, f"{path}/forward", f"{prefix}forward_"),
            (layer.backward, f"{path}/backward", f"{prefix}backward_"),
        ]
        alike = arithmetic(layer.forward) == arithmetic(layer.backward)
        groups = [(both, "bidirectional")] if alike else [(both[:1], "forward"), (both[1:], "reverse")]
    outputs = []
    for cells, direction in groups:
        outputs += _add_operator(graph, cells, arrays, direction, values, steps, initial_state)
    if isinstance(layer, RNN):
        return outputs[0]
    if layer.merge == "concat":
        return graph.node("Concat", outputs, axis=2)
    operator = {"sum": "Sum", "mean": "Mean", "mul": "Mul"}[layer.merge or ""]
    return graph.node(operator, outputs)


def _add_operator(
    graph: Graph,
    cells: list[tuple[Cell, str, str]],
    arrays: Arrays,
    direction: str,
    values: str,
    steps: str,
    initial_state: bool,
) -> list[str]:
    """Adds one LSTM, GRU or RNN; its outputs `[time, batch, features]`, one for each direction."""
    cell = cells[0][0]
    states = ("hidden", "cell") if isinstance(cell, LSTM) else ("hidden",)
    leaves = {
        leaf: graph.constant(f"{cells[0][1]}/{leaf}s", np.stack([arrays[f"{path}/{leaf}"] for _, path, _ in cells]))
        for leaf in ("W", "R", "B", "P")
        if f"{cells[0][1]}/{leaf}" in arrays
    }
    before = [""] * len(states)
    if initial_state:
        for k, state in enumerate(states):
            given = [graph.input(f"initial_{prefix}{state}", ["batch", own.output_size]) for own, _, prefix in cells]
            apart = [graph.node("Unsqueeze", [name, graph.constant("axis_0", np.array([0]))]) for name in given]
            before[k] = graph.node("Concat", apart, axis=0)
    weights = [leaves.get(leaf, "") for leaf in "WRB"]
    inputs = [values, *weights, steps, *before, *([leaves["P"]] if "P" in leaves else [])]
    made = graph.node(
        OPERATORS[type(cell)], inputs, 1 + len(states), direction=direction, **_attributes(cell, len(cells))
    )
    for state, final in zip(states, made[1:], strict=True):
        for (own, _, prefix), value in zip(cells, _directions(graph, final, len(cells), 0), strict=True):
            graph.output(f"{prefix}{state}", value, ["batch", own.output_size])
    return _directions(graph, made[0], len(cells), 1)


def _directions(graph: Graph, value: str, count: int, axis: int) -> list[str]:
    """Takes a value apart along the axis of directions."""
    parts = [value]
    if count > 1:
        parts = graph.node("Split", [value, graph.constant("halves", np.array([1, 1]))], count, axis=axis)
    number = graph.constant(f"axis_{axis}", np.array([axis]))
    return [graph.node("Squeeze", [part, number]) for part in parts]


def _attributes(cell: Cell, directions: int = 1) -> dict[str, Any]:
    """An operator's attributes."""
    attributes: dict[str, Any] = {"hidden_size": cell.output_size}
    if isinstance(cell, LSTM) and cell.coupled:
        attributes["input_forget"] = 1
    if isinstance(cell, GRU) and cell.reset_after:
        attributes["linear_before_reset"] = 1
    if isinstance(cell, Elman):
        attributes["activations"] = [named(cell.activation, ACTIVATIONS)] * directions
    return attributes
