"""How the outputs of a graph's recurrent operators reach each other: what flows along its edges.

The graph is walked once, in its order. Each value that depends on a recurrent operator is either a signal, which is
known axis by axis, or a mixture of which is known only what went into it: a head's logits, for instance, or a final
state. An operator that reads a mixture has something before it for which flaxrnn has no layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import helper, shape_inference

RECURRENT = ("LSTM", "GRU", "RNN")
DIRECTIONS, FEATURES = "directions", "features"
"""Two of a signal's axes; the others are called by their place in the sequence that enters the network."""


class Source(NamedTuple):
    """What enters the network: a value of the graph, and which of its axes is time."""

    name: str
    time: str = ""


class Direction(NamedTuple):
    """The outputs of one direction of one operator."""

    node: Any
    number: int
    below: "Expression"

    @property
    def reverse(self) -> bool:
        """Whether it reads from the end."""
        return self.number == 1 or attribute(self.node, "direction", b"forward") == b"reverse"

    @property
    def size(self) -> int:
        """How many features it has."""
        return attribute(self.node, "hidden_size", 0)


class Merged(NamedTuple):
    """Two outputs as one: "concat", "sum", "mean" or "mul"; a sum may be a residual connection."""

    how: str
    parts: tuple["Expression", "Expression"]


Expression = Source | Direction | Merged


@dataclasses.dataclass(frozen=True)
class Signal:
    """A value of the graph whose axes are known.

    Attributes:
      parts: what it has at each place of its axis of directions; one where there is no such axis.
      axes: what its axes are; none for a source of which nothing is known yet.
    """

    parts: tuple[Expression, ...]
    axes: tuple[str, ...] = ()

    def whole(self) -> Expression | None:
        """What it is, if there are not two directions apart."""
        return self.parts[0] if len(self.parts) == 1 else None

    def without(self, axis: str, *parts: Expression) -> "Signal":
        """The signal without one of its axes."""
        return Signal(parts or self.parts, tuple(other for other in self.axes if other != axis))


class Mixture(NamedTuple):
    """A value made of signals in a way for which flaxrnn has no layer."""

    parts: tuple[Expression, ...]
    by: str


KINDS = {
    "direction": bytes,
    **dict.fromkeys(("hidden_size", "layout", "axis", "keepdims", "linear_before_reset", "input_forget"), int),
    **dict.fromkeys(("perm", "axes", "split", "activations"), list),
}
"""What the attributes are that are read here."""


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute of a node."""
    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            if not isinstance(value, KINDS.get(name, object)):
                raise ValueError(
                    f"{called(node)} has {name}={value!r}: pass a model that onnx.checker.check_model takes"
                )
            return value
    return default


def called(node: Any) -> str:
    """A node for a message: its name, or what it makes where it has none."""
    made = next((name for name in node.output if name), "")
    return node.name or f"the {node.op_type} that makes {made!r}"


def within(expression: Expression) -> list[Expression]:
    """An expression and all that it is made of, each once."""
    found: dict[int, Expression] = {}
    waiting = [expression]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            waiting += [one.below] if isinstance(one, Direction) else getattr(one, "parts", ())
    return list(found.values())


def operators(expression: Expression) -> list[Direction]:
    """The directions of operators that an expression is made of."""
    return [one for one in within(expression) if isinstance(one, Direction)]


def sources(expression: Expression) -> list[Source]:
    """The values that enter an expression."""
    return [one for one in within(expression) if isinstance(one, Source)]


class Walk:
    """The signals of a graph."""

    def __init__(self, model: Any, constants: dict[str, np.ndarray]) -> None:
        self.model, self.constants = model, constants
        self.values: dict[str, Signal | Mixture] = {}
        self._shapes: dict[str, list[int | None]] | None = None
        for node in model.graph.node:
            self._walk(node)
            self.values.pop("", None)  # outputs that are left out

    def outputs(self) -> list[Expression]:
        """What the graph's outputs are made of."""
        found = [self.values[output.name] for output in self.model.graph.output if output.name in self.values]
        return [part for value in found for part in value.parts if not isinstance(part, Source)]

    def _walk(self, node: Any) -> None:
        if node.op_type in RECURRENT and node.domain in ("", "ai.onnx"):
            self._recur(node)
            return
        given = [self.values[name] for name in node.input if name in self.values]
        parts = tuple(part for value in given for part in value.parts)
        depends = any(not isinstance(part, Source) for part in parts)
        made: list[Signal] | None = None
        if (depends or node.op_type in ALIKE) and node.op_type in RULES and node.input:
            first = self._signal(node.input[0])
            made = RULES[node.op_type](self, node, first) if first is not None else None
        if made is not None:
            self.values |= dict(zip(node.output, made, strict=False))
        elif depends:
            before = next((value.by for value in given if isinstance(value, Mixture)), called(node))
            self.values |= {name: Mixture(parts, before) for name in node.output if name}

    def _signal(self, name: str) -> Signal | None:
        """A value as a signal; None for a mixture."""
        value = self.values.get(name, Signal((Source(name),)))
        return value if isinstance(value, Signal) else None

    def _recur(self, node: Any) -> None:
        name, value = called(node), self.values.get(node.input[0])
        if isinstance(value, Mixture):
            under = ", ".join(called(one.node) for part in value.parts for one in operators(part))
            raise ValueError(
                f"{name} reads what {value.by} makes of the outputs of {under}: flaxrnn's layers have nothing in "
                "between; bring the operators over one by one"
            )
        signal = value or Signal((Source(node.input[0]),))
        below, axes = signal.whole(), signal.axes or ("0", "1", "2")
        batch_first = attribute(node, "layout", 0)
        if below is None or len(axes) != 3 or DIRECTIONS in axes:
            raise ValueError(f"{name} reads {node.input[0]!r}, which is not [time, batch, features]")
        time = axes[1 if batch_first else 0]
        times = {source.time for source in sources(below)} - {""}
        if isinstance(below, Source):
            below = Source(below.name, time)
        elif times != {time} or axes[2] != FEATURES:
            raise ValueError(f"{name} reads along another axis than the operators below it: flaxrnn's read along time")
        count = 2 if attribute(node, "direction") == b"bidirectional" else 1
        parts = tuple(Direction(node, number, below) for number in range(count))
        made = (*axes[:2], DIRECTIONS, FEATURES) if batch_first else (axes[0], DIRECTIONS, axes[1], FEATURES)
        states = Mixture(parts, f"a final state of {name}")
        self.values |= dict(zip(node.output, (Signal(parts, made), states, states), strict=False))

    def _same(self, node: Any, signal: Signal) -> list[Signal]:
        del node
        return [signal]

    def _transpose(self, node: Any, signal: Signal) -> list[Signal] | None:
        order = attribute(node, "perm")
        if order is None:
            return None
        axes = signal.axes or tuple(str(k) for k in range(len(order)))
        return [Signal(signal.parts, tuple(axes[k] for k in order))] if sorted(order) == [*range(len(axes))] else None

    def _squeeze(self, node: Any, signal: Signal) -> list[Signal] | None:
        axes = self._axes(node, signal)
        if axes is None:  # all that are of size 1: time, batch and features may not be
            axes = [DIRECTIONS] if len(self._shape(node.output[0]) or []) == len(signal.axes) - 1 else []
        return [signal.without(DIRECTIONS)] if axes == [DIRECTIONS] and signal.whole() else None

    def _reshape(self, node: Any, signal: Signal) -> list[Signal] | None:
        axes, (part, *others) = signal.axes, signal.parts
        target = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        shape = list(target) if target is not None else self._shape(node.output[0])
        if shape is None or not axes or axes[-1] != FEATURES:
            return None
        if (
            len(shape) == len(axes) - 1
            and DIRECTIONS in axes
            and shape[-1] in (None, -1, sum(map(_size, signal.parts)))
        ):
            if not others:
                return [signal.without(DIRECTIONS)]
            return [signal.without(DIRECTIONS, _concat(*signal.parts))] if axes[-2] == DIRECTIONS else None
        halves = _halves(part)
        if len(shape) == len(axes) + 1 and DIRECTIONS not in axes and halves and shape[-2] == 2:
            return (
                [Signal(halves, (*axes[:-1], DIRECTIONS, FEATURES))] if _size(halves[0]) == _size(halves[1]) else None
            )
        return None

    def _concat(self, node: Any, signal: Signal) -> list[Signal] | None:
        given = [self._signal(name) for name in node.input]
        axis = _at(signal, attribute(node, "axis"))
        if len(given) != 2 or any(one is None or one.axes != signal.axes or not one.whole() for one in given):
            return None
        parts = tuple(one.parts[0] for one in given if one is not None)
        if any(isinstance(part, Source) for part in parts) or axis not in (DIRECTIONS, FEATURES):
            return None
        return [Signal(parts if axis == DIRECTIONS else (_concat(*parts),), signal.axes)]

    def _arithmetic(self, node: Any, signal: Signal) -> list[Signal] | None:
        if len(node.input) != 2:
            return None
        if any(name in self.constants for name in node.input):
            return self._halved(node)
        first, second = (self._signal(name) for name in node.input)
        if first is None or second is None or node.op_type not in MERGES:
            return None
        axes = first.axes if FEATURES in first.axes else second.axes
        a, b = first.whole(), second.whole()
        if a is None or b is None or not (_fits(first.axes, axes) and _fits(second.axes, axes)):
            return None
        for one, other in ((a, b), (b, a)):  # with another value than what the network reads, it belongs to a head
            if isinstance(one, Source) and one.name not in {source.name for source in sources(other)}:
                return None
        return [Signal((Merged(MERGES[node.op_type], (a, b)),), axes)]

    def _halved(self, node: Any) -> list[Signal] | None:
        """Half a sum is a mean."""
        value, number = node.input if node.input[1] in self.constants else node.input[::-1]
        signal, half = self._signal(value), {"Mul": 0.5, "Div": 2.0}.get(node.op_type)
        if signal is None or self.constants[number].size != 1 or self.constants[number].item() != half:
            return None
        if node.op_type == "Div" and value != node.input[0]:
            return None
        summed = signal.whole()
        if not isinstance(summed, Merged) or summed.how != "sum":
            return None
        return [Signal((Merged("mean", summed.parts),), signal.axes)]

    def _reduce(self, node: Any, signal: Signal) -> list[Signal] | None:
        if self._axes(node, signal) != [DIRECTIONS] or len(signal.parts) != 2 or attribute(node, "keepdims", 1):
            return None
        first, second = signal.parts
        how = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceProd": "mul"}[node.op_type]
        return [signal.without(DIRECTIONS, Merged(how, (first, second)))]

    def _split(self, node: Any, signal: Signal) -> list[Signal] | None:
        axis, parts = _at(signal, attribute(node, "axis", 0)), _parts(signal, attribute(node, "axis", 0))
        sizes = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        expected = [1 if axis == DIRECTIONS else _size(part) for part in parts]
        given = attribute(node, "split") if sizes is None else list(sizes)
        fits = given == expected if given is not None else len(set(expected)) == 1
        return [Signal((part,), signal.axes) for part in parts] if fits and len(node.output) == len(parts) else None

    def _slice(self, node: Any, signal: Signal) -> list[Signal] | None:
        given = [self.constants.get(name) for name in node.input[1:]]
        if len(given) < 3 or any(value is None or value.shape != (1,) for value in given):
            return None
        begin, end, axis, step = (int(value[0]) for value in [*given, np.ones(1)][:4] if value is not None)
        parts = _parts(signal, axis)
        sizes = [1 if _at(signal, axis) == DIRECTIONS else _size(part) for part in parts]
        bounds = [0, *np.cumsum(sizes).tolist()]
        taken = slice(begin, end).indices(bounds[-1])[:2]
        for k, part in enumerate(parts):
            if step == 1 and taken == (bounds[k], bounds[k + 1]):
                return [Signal((part,), signal.axes)]
        return None

    def _gather(self, node: Any, signal: Signal) -> list[Signal] | None:
        index = self.constants.get(node.input[1])
        if _at(signal, attribute(node, "axis", 0)) != DIRECTIONS or index is None or index.size != 1:
            return None
        number = int(index.reshape(-1)[0])
        if not -len(signal.parts) <= number < len(signal.parts):
            return None
        part = signal.parts[number]
        return [signal.without(DIRECTIONS, part) if index.ndim == 0 else Signal((part,), signal.axes)]

    def _axes(self, node: Any, signal: Signal) -> list[str] | None:
        """The axes that a node names, by attribute or by input."""
        given = attribute(node, "axes")
        if given is None and len(node.input) > 1:
            given = self.constants.get(node.input[1], np.zeros(0, int)).reshape(-1).tolist()
        return None if given is None else [_at(signal, axis) for axis in given]

    def _shape(self, name: str) -> list[int | None] | None:
        """The shape of a value, as far as ONNX itself can tell it."""
        if self._shapes is None:
            try:
                graph = shape_inference.infer_shapes(self.model, data_prop=True).graph
            except Exception:  # of the many kinds that a wrong model raises there: then it tells nothing
                graph = self.model.graph
            values = [value for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")]
            self._shapes = {
                value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in values
            }
        return self._shapes.get(name)


MERGES = {"Add": "sum", "Sum": "sum", "Mean": "mean", "Mul": "mul"}
"""What operators of two inputs do with the outputs of two directions."""
ALIKE = ("Cast", "Dropout", "Identity", "Transpose")
"""Operators that are followed before the first recurrent one too, so that two that read the same are seen to."""
RULES: dict[str, Callable[[Walk, Any, Signal], list[Signal] | None]] = {
    "Cast": Walk._same,
    "Dropout": Walk._same,
    "Identity": Walk._same,
    "Transpose": Walk._transpose,
    "Squeeze": Walk._squeeze,
    "Reshape": Walk._reshape,
    "Concat": Walk._concat,
    "Split": Walk._split,
    "Slice": Walk._slice,
    "Gather": Walk._gather,
    **dict.fromkeys(("Add", "Sum", "Mean", "Mul", "Div"), Walk._arithmetic),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceProd"), Walk._reduce),
}
"""What becomes of a signal, its first input, in each operator that keeps it one; None where it becomes a mixture."""


def _size(expression: Expression) -> int:
    """How many features an expression has; 0 where that is not known."""
    if isinstance(expression, Direction):
        return expression.size
    if isinstance(expression, Source):
        return 0
    sizes = [_size(part) for part in expression.parts]
    return sum(sizes) if expression.how == "concat" else max(sizes)


def _concat(first: Expression, second: Expression) -> Merged:
    return Merged("concat", (first, second))


def _halves(expression: Expression) -> tuple[Expression, Expression] | None:
    return expression.parts if isinstance(expression, Merged) and expression.how == "concat" else None


def _at(signal: Signal, axis: int) -> str:
    """An axis by its number; "" where there is none."""
    return signal.axes[axis] if -len(signal.axes) <= axis < len(signal.axes) else ""


def _parts(signal: Signal, axis: int) -> tuple[Expression, ...]:
    """What a signal has along its axis of directions, or along that of features."""
    if _at(signal, axis) == DIRECTIONS:
        return signal.parts
    return (_halves(signal.parts[0]) or ()) if _at(signal, axis) == FEATURES and signal.whole() else ()


def _fits(axes: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether two values are alike but for what their features are called; those of a source may be unknown."""
    axes = axes or ("0", "1", "2")
    return len(axes) == len(others) and all(a == b or FEATURES in (a, b) for a, b in zip(axes, others, strict=True))
