"""The layer that the recurrent operators of an ONNX model are, and their weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from flaxrnn.cells import GRU, LSTM, Elman, GatedCell
from flaxrnn.cells.base import Cell
from flaxrnn.interop.arrays import Arrays, listed, to_numpy
from flaxrnn.interop.layout import Site
from flaxrnn.interop.onnx_layout import ACTIVATIONS
from flaxrnn.interop.onnx_signals import (
    RECURRENT,
    Direction,
    Expression,
    Merged,
    Source,
    Walk,
    attribute,
    called,
    operators,
    within,
)
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack

DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MOVES = ("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
"""Operators that make nothing but zeros of zeros, their first input."""


def read_model(model: Any, weights: Mapping[str, Any]) -> tuple[Layer, list[Site]]:
    """The layer that the recurrent operators of a model are, and the arrays of each of its cells."""
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"source is {type(model).__name__}: pass an onnx.ModelProto, as onnx.load gives, or arrays")
    if model.functions:
        model = inliner.inline_local_functions(model)
    inputs = [value.name for value in model.graph.input]
    if unknown := [name for name in weights if name not in inputs]:
        raise ValueError(f"weights has {listed(unknown)}, but the inputs of the model are {listed(inputs)}")
    constants = _constants(model.graph) | {name: to_numpy(name, array) for name, array in weights.items()}
    if not any(node.op_type in RECURRENT for node in model.graph.node):
        raise ValueError("the model has no LSTM, GRU or RNN operator in its graph")
    try:
        parts = _Parts(constants, inputs, _zeros(model.graph, constants))
        return parts.network(_top(Walk(model, constants).outputs()))
    except ValueError:
        raise
    except Exception:  # a fault of the model, unless ONNX itself has nothing against it
        _check(model)
        raise


def _check(model: Any) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of the many kinds that a wrong model raises there
        raise ValueError(f"onnx.checker refuses the model: {error}") from error


def _constants(graph: Any) -> dict[str, np.ndarray]:
    constants = {array.name: _array(array.name, array) for array in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and (tensor := attribute(node, "value")) is not None:
            constants[node.output[0]] = _array(called(node), tensor)
        elif node.op_type == "Constant":
            names = ("value_int", "value_ints", "value_float", "value_floats")
            numbers = [attribute(node, name) for name in names if attribute(node, name) is not None]
            constants |= dict(zip(node.output, map(np.array, numbers), strict=False))
    return constants


def _array(name: str, tensor: Any) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # of the many kinds that a damaged tensor raises there
        raise ValueError(f"{name} is no array that ONNX can read: {error}") from error


def _zeros(graph: Any, constants: dict[str, np.ndarray]) -> set[str | None]:
    """The values of a graph that are zero, left out (None), or given to it as inputs: no state of their own."""
    zeros: set[str | None] = {name for name, array in constants.items() if not np.any(array)}
    zeros |= {None, *(value.name for value in graph.input if value.name not in constants)}
    for node in graph.node:
        values = [helper.get_attribute_value(one) for one in node.attribute if one.name == "value"]
        filled = node.op_type == "ConstantOfShape" and not any(np.any(_array(called(node), one)) for one in values)
        moved = node.op_type in MOVES and node.input[0] in zeros
        joined = node.op_type == "Concat" and all(name in zeros for name in node.input)
        if filled or moved or joined:
            zeros |= set(node.output)
    return zeros


def _top(found: list[Expression]) -> Expression:
    """What the outputs are made of: of all their parts the one that the others are in."""
    if not found:
        raise ValueError("none of the model's outputs comes from an LSTM, GRU or RNN operator of its graph")
    inside = {id(one) for part in found for one in within(part) if one is not part}
    tops: list[Expression] = []
    for part in found:
        if id(part) not in inside and part not in tops:
            tops.append(part)
    if len(tops) == 1:
        return tops[0]
    pair = sorted(tops, key=lambda part: isinstance(part, Direction) and part.reverse)
    if len(pair) == 2 and _is_pair(pair[0], pair[1]):  # of which the outputs are not merged, or the states alone used
        return Merged("concat", (pair[0], pair[1]))
    names = "; ".join(" and ".join(called(one.node) for one in operators(part)) for part in tops)
    raise ValueError(
        f"the model's outputs are made of its recurrent operators in {len(tops)} ways ({names}), and flaxrnn has no "
        "one layer for that: bring the operators over one by one"
    )


def _is_pair(first: Expression, second: Expression) -> bool:
    """Whether two outputs are the two directions of a `Bidirectional`."""
    both = isinstance(first, Direction) and isinstance(second, Direction) and first.below == second.below
    return both and not first.reverse and second.reverse  # type: ignore[union-attr]


class _Parts:
    """Layers and arrays out of what flows through a graph."""

    def __init__(self, constants: dict[str, np.ndarray], inputs: list[str], zeros: set[str | None]) -> None:
        self.constants, self.inputs, self.zeros = constants, inputs, zeros

    def network(self, top: Expression) -> tuple[Layer, list[Site]]:
        """The layer, and the arrays of its cells."""
        chain = self._chain(top)
        sites = [site for _, _, own in chain for site in own]
        groups: list[list[Layer]] = []  # each without a residual connection into its first layer
        for layer, residual, _ in chain:
            if residual:
                groups[-1].append(layer)
            else:
                groups.append([layer])
        if all(len(group) == 1 for group in groups):
            layers = [group[0] for group in groups]
        elif len(groups) == 1:
            return Stack(groups[0], residual=True), sites
        else:
            layers = [group[0] if len(group) == 1 else Stack(group, residual=True) for group in groups]
        return (layers[0] if len(layers) == 1 else Stack(layers)), sites

    def _chain(self, top: Expression) -> list[tuple[Layer, bool, list[Site]]]:
        """Each layer from the bottom, whether its inputs are added to its outputs, and its arrays."""
        chain: list[tuple[Layer, bool, list[Site]]] = []
        residual = False
        while not isinstance(top, Source):
            if isinstance(top, Direction):
                cell, site = self._cell(top)
                chain.append((RNN(cell, reverse=top.reverse), residual, [site]))
                top, residual = top.below, False
                continue
            first, second = top.parts
            if top.how != "concat" and _is_pair(second, first):
                first, second = second, first
            if isinstance(first, Direction) and isinstance(second, Direction) and _is_pair(first, second):
                (forward, one), (backward, other) = self._cell(first), self._cell(second)
                chain.append((Bidirectional(forward, backward, merge=top.how), residual, [one, other]))
                top, residual = first.below, False
            elif top.how == "sum" and not residual and (above := _above(first, second)) is not None:
                top, residual = above, True
            else:
                raise _no_layer(top)
        if chain and chain[-1][1]:
            raise ValueError(
                "the model adds what its first recurrent layer reads to what it gives: flaxrnn's Stack(residual=True) "
                "begins with the second; bring the layers over one by one"
            )
        return chain[::-1]

    def _cell(self, direction: Direction) -> tuple[Cell, Site]:
        """A cell and its arrays."""
        node, number, name = direction.node, direction.number, called(direction.node)
        directions = 2 if attribute(node, "direction") == b"bidirectional" else 1
        if attribute(node, "direction", b"forward") not in (b"forward", b"reverse", b"bidirectional"):
            raise ValueError(
                f"{name} has the direction {attribute(node, 'direction')!r}: there are forward, reverse "
                "and bidirectional"
            )
        slots = ("X", "W", "R", "B", "lengths", "initial_h", *(("initial_c", "P") if node.op_type == "LSTM" else ()))
        inputs = {slot: given for slot, given in zip(slots, node.input, strict=False) if given}
        arrays = self._arrays(node, name, directions, inputs)
        for slot in ("initial_h", "initial_c"):
            if inputs.get(slot) not in self.zeros:
                raise ValueError(
                    f"{name}: its {slot} is neither zero nor an input, and there is no place for it in params"
                )
        if inputs.get("lengths") in self.constants:
            raise ValueError(
                f"{name}: its sequence_lens are constants of the graph: flaxrnn's layers have no lengths of their own; "
                "make them an input of the model, and pass them to layer.apply as lengths=..."
            )
        size = arrays["R"].shape[-1]
        site = Site(f"{name}/{number}", {slot: array[number] for slot, array in arrays.items()})
        cell = _cell_of(node, name, number, size, "P" in arrays)
        return (cell if "B" in arrays else dataclasses.replace(cell, use_bias=False)), site

    def _arrays(self, node: Any, name: str, directions: int, inputs: dict[str, str]) -> Arrays:
        """The weights of an operator, `[directions, ...]`, of the shapes that ONNX says."""
        arrays: Arrays = {}
        for slot in ("W", "R", "B", "P"):
            if slot not in inputs:
                if slot in ("W", "R"):
                    raise ValueError(f"{name} has no {slot}")
                continue
            given = inputs[slot]
            if given not in self.constants:
                if given in self.inputs:
                    raise ValueError(
                        f"{name}: its {slot} is the input {given!r} of the model: pass it beside the model, as "
                        f"weights={{{given!r}: array, ...}}"
                    )
                raise ValueError(
                    f"{name}: its {slot}, {given!r}, is no constant of the graph: pass a model whose weights are "
                    "constants"
                )
            arrays[slot] = self.constants[given]
        size, gates = attribute(node, "hidden_size", 0) or arrays["R"].shape[-1], GATES[node.op_type]
        features = arrays["W"].shape[-1] if arrays["W"].ndim == 3 else "features"
        for slot, shape in {
            "W": (directions, gates * size, features),
            "R": (directions, gates * size, size),
            "B": (directions, 2 * gates * size),
            "P": (directions, 3 * size),
        }.items():
            if slot in arrays and arrays[slot].shape != shape:
                raise ValueError(
                    f"{name}: its {slot} has the shape {list(arrays[slot].shape)}, but an {node.op_type} of "
                    f"{size} features in {directions} directions has [{', '.join(map(str, shape))}]"
                )
        return arrays


def _above(first: Expression, second: Expression) -> Expression | None:
    """Of two values that are added, the layer that reads the other one; None if neither does."""
    for above, below in ((first, second), (second, first)):
        layer = above.parts[0] if isinstance(above, Merged) else above
        reads = layer.below if isinstance(layer, Direction) else None
        if reads == below or (isinstance(reads, Source) and isinstance(below, Source) and reads.name == below.name):
            return above
    return None


def _no_layer(merged: Merged) -> ValueError:
    apart = [" over ".join(called(one.node) for one in operators(part)) or "an input" for part in merged.parts]
    return ValueError(
        f"the model merges the outputs of {apart[0]} with those of {apart[1]} (by {merged.how}), for which flaxrnn has "
        "no layer: a Bidirectional has one that reads forward and one that reads backward, in this order, of the same "
        "inputs, and Stack(residual=True) adds to a layer's outputs what that layer reads; bring the operators over "
        "one by one"
    )


def _cell_of(node: Any, name: str, direction: int, size: int, peephole: bool) -> GatedCell:
    """The cell of one direction of an operator."""
    for unknown in ("clip", "activation_alpha", "activation_beta"):
        if attribute(node, unknown) is not None:
            raise ValueError(f"{name} has the attribute {unknown}, for which flaxrnn has no cell")
    activations = [one.decode(errors="replace") for one in attribute(node, "activations", [])]
    default = DEFAULTS.get(node.op_type, ["Tanh"])
    own = activations[direction * len(default) : (direction + 1) * len(default)] or default
    if node.op_type == "RNN":
        if own[0] not in ACTIVATIONS:
            raise ValueError(f"{name} has the activation {own[0]}: there are {', '.join(ACTIVATIONS)}")
        return Elman(size, activation=ACTIVATIONS[own[0]])
    if own != default:
        raise ValueError(
            f"{name} has the activations {', '.join(activations)}: flaxrnn's cells have {', '.join(default)}"
        )
    if node.op_type == "GRU":
        return GRU(size, reset_after=bool(attribute(node, "linear_before_reset", 0)))
    return LSTM(size, peephole=peephole, coupled=bool(attribute(node, "input_forget", 0)))
