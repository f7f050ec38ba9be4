"""From a jaxpr of elementwise arithmetic to a graph of C++ expressions, each computed for every feature.

An array `[..., features]` becomes a numpy array of nodes whose last axis has length one. A node stands for one vector
of features in C++. Operations that move elements along the other axes (slices and reshapes of a few small vectors) are
done here by numpy; operations that compute become nodes.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.extend
import numpy as np

NUMBERS = {
    "add": "{0} + {1}",
    "add_any": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "max": "max_({0}, {1})",
    "min": "min_({0}, {1})",
    "clamp": "min_(max_({1}, {0}), {2})",
    "abs": "abs_({0})",
    "sign": "sign_({0})",
    "square": "{0} * {0}",
    "floor": "map(floorf, {0})",
    "ceil": "map(ceilf, {0})",
    "exp": "exp_({0})",
    "tanh": "tanh_({0})",
    "logistic": "sigmoid_({0})",
    "exp2": "map(exp2f, {0})",
    "expm1": "map(expm1f, {0})",
    "log": "map(logf, {0})",
    "log1p": "map(log1pf, {0})",
    "sqrt": "map(sqrtf, {0})",
    "rsqrt": "1.f / map(sqrtf, {0})",
    "sin": "map(sinf, {0})",
    "cos": "map(cosf, {0})",
    "tan": "map(tanf, {0})",
    "atan": "map(atanf, {0})",
    "sinh": "map(sinhf, {0})",
    "cosh": "map(coshf, {0})",
    "erf": "map(erff, {0})",
    "erfc": "map(erfcf, {0})",
    "pow": "map(powf, {0}, {1})",
    "select_n": "select({0}, {2}, {1})",
}
"""Primitives whose results are numbers, as C++ expressions (the functions are in `kernel.h`)."""
TRUTHS = {
    "gt": "{0} > {1}",
    "lt": "{0} < {1}",
    "ge": "{0} >= {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    "is_finite": "abs_({0}) < INFINITY",
}
"""Primitives whose results are truth values."""
CHEAP = {"add", "add_any", "sub", "mul", "neg", "max", "min", "clamp", "abs", "sign", "square", "select_n", "number"}
SAME = {"convert_element_type", "stop_gradient", "copy", "copy_p", "optimization_barrier"}
INNER = {"jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "remat2", "checkpoint"}


class Untranslatable(Exception):  # noqa: N818
    """Why a cell cannot be translated, as half a sentence."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A value of the graph.

    Attributes:
      op: a primitive's name, "leaf", "constant" or "number" (of a truth value).
      args: the numbers of the nodes that it is computed from; for a leaf its name, for a constant its value.
      truth: whether it is a truth value.
    """

    op: str
    args: tuple
    truth: bool = False


class Graph:
    """Nodes without duplicates: equal nodes have one number."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[Node, int] = {}

    def put(self, node: Node) -> int:
        """The number of a node; it is added if it is new."""
        if node not in self._numbers:
            self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[node]

    def leaf(self, name: str) -> int:
        return self.put(Node("leaf", (name,)))

    def constant(self, value: Any) -> int:
        return self.put(Node("constant", (float(value).hex(),), truth=np.asarray(value).dtype == bool))

    def compute(self, op: str, *args: int) -> int:
        """A node that computes, simplified where an argument is exactly zero or one."""
        op = "add" if op == "add_any" else op
        zero = [self.is_constant(arg, 0) for arg in args]
        if op == "add" and zero[0]:
            return args[1]
        if op in ("add", "sub") and zero[1]:
            return args[0]
        if op == "add" and args[0] > args[1]:
            args = args[::-1]
        if op == "mul" and (self.is_constant(args[0], 1) or self.is_constant(args[1], 1)):
            return args[1] if self.is_constant(args[0], 1) else args[0]
        truth = op in TRUTHS or (op == "select_n" and self.nodes[args[1]].truth)
        return self.put(Node(op, args, truth))

    def is_constant(self, number: int, value: float) -> bool:
        return self.nodes[number] == Node("constant", (float(value).hex(),))

    def number(self, arg: int) -> int:
        """A truth value as one or zero."""
        return self.put(Node("number", (arg,))) if self.nodes[arg].truth else arg

    def inputs(self, number: int) -> tuple[int, ...]:
        """The nodes that a node is computed from."""
        node = self.nodes[number]
        return () if node.op in ("leaf", "constant") else node.args

    def below(self, outputs: Iterable[int], known: Iterable[int] = ()) -> list[int]:
        """The nodes that outputs need, in the order of computation; nothing below those that are `known`."""
        stop, seen, order = set(known), set(), []

        def visit(number: int) -> None:
            if number in seen:
                return
            seen.add(number)
            if number not in stop:
                for arg in self.inputs(number):
                    visit(arg)
            order.append(number)

        for output in outputs:
            visit(output)
        return order

    def without(self, outputs: Sequence[int], names: set[str]) -> list[int]:
        """The outputs, which are linear in the leaves `names`, with those set to zero."""
        zero = self.constant(0.0)
        found: dict[int, int] = {}

        def visit(number: int) -> int:
            if number not in found:
                node = self.nodes[number]
                if node.op == "leaf":
                    found[number] = zero if node.args[0] in names else number
                elif node.op == "constant":
                    found[number] = number
                else:
                    found[number] = self._linear(node, number, [visit(arg) for arg in node.args], zero)
            return found[number]

        return [visit(output) for output in outputs]

    def _linear(self, node: Node, number: int, args: list[int], zero: int) -> int:
        if tuple(args) == node.args:
            return number
        if (
            (node.op == "mul" and zero in args)
            or (node.op in ("div", "neg") and args[0] == zero)
            or (node.op == "select_n" and args[1] == args[2] == zero)
            or (node.op in ("add", "sub") and args[0] == args[1] == zero)
        ):
            return zero
        return (
            self.put(dataclasses.replace(node, args=tuple(args)))
            if node.op == "select_n"
            else self.compute(node.op, *args)
        )

    def code(self, number: int, names: dict[int, str]) -> str:
        """The C++ expression of a node, whose arguments have names."""
        node = self.nodes[number]
        if node.op == "number":
            return f"select({names[node.args[0]]}, broadcast(1.f), broadcast(0.f))"
        if node.op.startswith("power "):
            exponent = int(node.op.removeprefix("power "))
            power = " * ".join([names[node.args[0]]] * abs(exponent))
            return power if exponent > 0 else f"1.f / ({power})"
        form = "({0} & {2}) | (~{0} & {1})" if node.truth and node.op == "select_n" else (NUMBERS | TRUTHS)[node.op]
        return form.format(*(names[arg] for arg in node.args))


def literal(value: str, truth: bool) -> str:
    """A constant in C++, the same for each feature."""
    number = float.fromhex(value)
    if truth:
        return f"truth({str(bool(number)).lower()})"
    if np.isnan(number):
        return "broadcast(NAN)"
    if np.isinf(number):
        return f"broadcast({'-' if number < 0 else ''}INFINITY)"
    return f"broadcast({float(np.float32(number))!r}f)"


class Translator:
    """Evaluates a jaxpr over arrays of nodes; `sizes` are the lengths of a last axis that is one of features."""

    def __init__(self, graph: Graph, sizes: set[int]) -> None:
        self.graph, self.sizes = graph, sizes

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the array of nodes that stands for an array."""
        return (*shape[:-1], 1) if self.has_features(shape) else shape

    def has_features(self, shape: tuple[int, ...]) -> bool:
        return bool(shape) and shape[-1] in self.sizes

    def constant(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype not in (np.float32, np.dtype(bool), np.int32):
            raise Untranslatable(f"a constant of {array.dtype}")
        if self.has_features(array.shape):
            if not np.array_equal(
                array, np.broadcast_to(array[..., :1], array.shape), equal_nan=array.dtype.kind == "f"
            ):
                raise Untranslatable("a constant that differs from feature to feature")
            array = array[..., :1]
        return _each(self.graph.constant, array)

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of the jaxpr for inputs that are arrays of nodes."""
        env = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        env |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> np.ndarray:
            if isinstance(atom, jax.extend.core.Literal):
                return self.constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
            return env[atom]

        for equation in jaxpr.eqns:
            arguments = [read(atom) for atom in equation.invars]
            outputs = self.equation(equation, arguments)
            for output, var in zip(outputs, equation.outvars, strict=True):
                self.check(equation.primitive.name, output, var.aval)
            env |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def check(self, name: str, array: np.ndarray, like: Any) -> None:
        """Raises `Untranslatable` if nodes cannot represent the result of an equation."""
        if like.dtype not in (np.float32, np.dtype(bool), np.int32):
            raise Untranslatable(f"{name} gives {like.dtype}")
        if array.shape != self.shape(like.shape):
            raise Untranslatable(f"{name} operates along the feature axis")

    def equation(self, equation: Any, args: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of one equation."""
        name, params = equation.primitive.name, equation.params
        shape, dtype = equation.outvars[0].aval.shape, equation.outvars[0].aval.dtype
        if name in NUMBERS or name in TRUTHS:
            if any(atom.aval.dtype == np.int32 for atom in equation.invars):
                raise Untranslatable(f"{name} of integers")
            return [_each(lambda *one: self.graph.compute(name, *one), *np.broadcast_arrays(*args))]
        if name == "integer_pow":
            return [_each(lambda one: self.power(one, params["y"]), args[0])]
        if name in SAME:
            if dtype != np.float32 and dtype != equation.invars[0].aval.dtype:
                raise Untranslatable(f"{name} gives {dtype}")
            return [_each(self.graph.number, arg) if dtype == np.float32 else arg for arg in args]
        if name in INNER:
            inner = params.get("jaxpr") or params.get("call_jaxpr")
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), args)
        if move := getattr(self, f"_{name}", None):
            self.check_move(name, equation)
            return move(args, params, shape)
        raise Untranslatable(f"{name} is not a supported elementwise operation")

    def power(self, number: int, exponent: int) -> int:
        if abs(exponent) > 8 or exponent == 0:
            return self.graph.compute("pow", number, self.graph.constant(np.float32(exponent)))
        return self.graph.put(Node(f"power {exponent}", (number,)))

    def check_move(self, name: str, equation: Any) -> None:
        """Raises `Untranslatable` where an equation would move elements along the feature axis, or sum over it."""
        before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        if name == "broadcast_in_dim":
            kept = self.has_features(before) and equation.params["broadcast_dimensions"][-1] != len(after) - 1
        elif name == "transpose":
            kept = self.has_features(before) and equation.params["permutation"][-1] != len(before) - 1
        elif name == "reduce_sum":
            kept = self.has_features(before) and len(before) - 1 in equation.params["axes"] and before[-1] != 1
        else:
            kept = self.has_features(before) and (not after or after[-1] != before[-1])
        if kept:
            raise Untranslatable(f"{name} operates along the feature axis")

    def _reshape(self, args: list, params: Any, shape: tuple) -> list:
        return [args[0].reshape(self.shape(shape))]

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, args: list, params: Any, shape: tuple) -> list:
        like, places = self.shape(shape), params["broadcast_dimensions"]
        lengths = [args[0].shape[places.index(axis)] if axis in places else 1 for axis in range(len(shape))]
        return [np.broadcast_to(args[0].reshape(lengths), like)]

    def _slice(self, args: list, params: Any, shape: tuple) -> list:
        strides = params["strides"] or [1] * len(shape)
        taken = [slice(*ends) for ends in zip(params["start_indices"], params["limit_indices"], strides, strict=True)]
        if self.has_features(shape):
            taken[-1] = slice(None)
        return [args[0][tuple(taken)]]

    def _split(self, args: list, params: Any, shape: tuple) -> list:
        return np.split(args[0], np.cumsum(params["sizes"])[:-1], axis=params["axis"])

    def _concatenate(self, args: list, params: Any, shape: tuple) -> list:
        return [np.concatenate(args, axis=params["dimension"])]

    def _pad(self, args: list, params: Any, shape: tuple) -> list:
        if any(inner for _, _, inner in params["padding_config"]):
            raise Untranslatable("pad inserts values between elements")
        padded = np.full(self.shape(shape), args[1].item(), object)
        places = [
            slice(low, low + size) for (low, _, _), size in zip(params["padding_config"], args[0].shape, strict=True)
        ]
        padded[tuple(places)] = args[0]
        return [padded]

    def _transpose(self, args: list, params: Any, shape: tuple) -> list:
        return [args[0].transpose(params["permutation"])]

    def _reduce_sum(self, args: list, params: Any, shape: tuple) -> list:
        total = args[0]
        for axis in sorted(params["axes"], reverse=True):
            parts = [np.take(total, place, axis) for place in range(total.shape[axis])]
            total = parts[0]
            for part in parts[1:]:
                total = _each(lambda *one: self.graph.compute("add", *one), total, part)
        return [np.asarray(total, object)]


def _each(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """`function` of the elements of arrays of one shape."""
    made = np.empty(arrays[0].shape, object)
    for place in np.ndindex(made.shape):
        made[place] = function(*(array[place] for array in arrays))
    return made


def leaves(graph: Graph, prefix: str, shape: tuple[int, ...]) -> np.ndarray:
    """A leaf for each element of an array of nodes: `prefix` and its number."""
    names = _numbered(prefix)
    return _each(lambda _: graph.leaf(next(names)), np.empty(shape, object))


def _numbered(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{prefix}_{number}"
        number += 1
