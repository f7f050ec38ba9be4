"""Calls of kernels, as JAX primitives: their derivatives, batching and lowering.

    scan:      operands -> outputs, final state
    save:      the same, and what the backward pass needs
    tangent:   the derivative of `scan`, which is only ever transposed
    gradient:  operands, results of `save`, gradients of outputs and final state -> gradients of the operands

Where there is no kernel (on another platform, in an exported program, after a failed build), the fused strategy is
lowered in its place. Second derivatives are those of the other strategies.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxrnn.cells.base import Cell
from flaxrnn.native import build
from flaxrnn.strategies.base import Sequence as StepSequence
from flaxrnn.strategies.base import Steps
from flaxrnn.strategies.fused import Fused
from flaxrnn.strategies.plain import Plain

logger = logging.getLogger("flaxrnn.native")


@dataclasses.dataclass(frozen=True)
class Program:
    """What is fixed when a call is traced.

    Attributes:
      cell: the cell.
      text: its C++.
      kernels, small, per_row: the names of the other operands among the parameters.
      widths: the numbers of features, in the order of the C++ code's numbers for them.
      saved: how many numbers the forward pass saves per row and step.
      output_field: which field of the state is the output; None if it is none of them.
      bias, masked, reset: whether there are such operands.
      time_major: whether inputs are `[time, batch, features]`, not `[batch, time, features]`.
      reverse: whether to begin at the end.
    """

    cell: Cell
    text: str
    kernels: tuple[str, ...]
    small: tuple[str, ...]
    per_row: frozenset[str]
    widths: tuple[int, ...]
    saved: int
    output_field: int | None
    fields: int
    bias: bool
    masked: bool
    reset: bool
    time_major: bool
    reverse: bool

    @property
    def names(self) -> list[str]:
        """What each operand is: a parameter's name, or "x", "state", "mask", "resets", "reset_state"."""
        parameters = ["kernel", *["bias"] * self.bias, *self.kernels, *self.small]
        resets = ["resets", *["reset_state"] * self.fields]
        return ["x", *parameters, *["state"] * self.fields, *["mask"] * self.masked, *resets * self.reset]

    def row_axes(self) -> list[int | None]:
        """Which axis of each operand is the batch; None for what all rows share."""
        rows = {"state": 0, "reset_state": 0, "mask": 1, "resets": 1, "x": 1 if self.time_major else 0}
        return [0 if name in self.per_row else rows.get(name) for name in self.names]

    @property
    def kept(self) -> list[int]:
        """The fields whose states before each step are kept: not the one that is the output of the step before."""
        marked = self.masked or self.reset
        return [field for field in range(self.fields) if marked or field != self.output_field]

    def unpack(self, operands: Sequence[Any]) -> dict[str, Any]:
        """The operands by name; a list of fields for "state" and "reset_state"."""
        found: dict[str, Any] = {}
        for name, operand in zip(self.names, operands, strict=True):
            if name in ("state", "reset_state"):
                found.setdefault(name, []).append(operand)
            else:
                found[name] = operand
        return found

    def shape(self, x: Any) -> tuple[int, int, int]:
        """Time, batch and features of the inputs."""
        first, second, features = x.shape
        return (first, second, features) if self.time_major else (second, first, features)

    def sizes(self, operands: Sequence[Any], save: bool, want_dx: bool) -> np.ndarray:
        """What the C++ reads as `Sizes`."""
        given = self.unpack(operands)
        T, B, features = self.shape(given["x"])
        outputs = self.cell.output_size
        x_strides, y_strides = (
            (B * size, size) if self.time_major else (size, T * size) for size in (features, outputs)
        )
        kept = sum(1 << field for field in self.kept)
        flags = self.reverse, self.masked, self.reset, save, kept, want_dx, self.bias
        columns = [given[name].shape[1] for name in self.kernels]
        return np.array([T, B, features, *x_strides, *y_strides, *flags, *self.widths, *columns], np.int64)


def reference(program: Program, *operands: jax.Array, forward_mode: bool = False) -> list[jax.Array]:
    """The results of `scan`, computed by another strategy."""
    given = program.unpack(operands)
    names = [name for name in program.names if name not in ("x", "state", "mask", "resets", "reset_state")]
    kind = type(jax.eval_shape(program.cell.initial_state))
    state = kind(*given["state"])
    inputs, params = given["x"], {name: given[name] for name in names}
    marks = (given[name] != 0 if name in given else None for name in ("mask", "resets"))
    steps = Steps(inputs if program.time_major else inputs.swapaxes(0, 1), *marks)
    reset_state = kind(*given["reset_state"]) if program.reset else state
    time_axis = 0 if program.time_major else 1
    sequence = StepSequence(program.cell, params, state, reset_state, steps, time_axis, program.reverse)
    final, outputs = (Plain() if forward_mode else Fused()).run(sequence)
    return [outputs, *final]


def reference_gradient(program: Program, want_dx: bool, *operands_and_cotangents: jax.Array) -> list[jax.Array]:
    """The results of `gradient`, from operands and cotangents alone."""
    count = len(program.names)
    operands, cotangents = operands_and_cotangents[:count], operands_and_cotangents[count:]
    _, pull = jax.vjp(functools.partial(reference, program), *operands)
    gradients = pull(list(cotangents))
    return [gradients[number] for number in _wanted(program, want_dx)]


def _wanted(program: Program, want_dx: bool) -> list[int]:
    """The operands whose gradients `gradient` returns, in the order of the C++ code."""
    names = program.names
    left_out = {"x", "mask", "resets", *program.per_row}
    return [*(number for number, name in enumerate(names) if name not in left_out), *[0] * want_dx]


def _scan_shapes(program: Program, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    given = program.unpack(operands)
    shapes = [(*given["x"].shape[:2], program.cell.output_size), *(leaf.shape for leaf in given["state"])]
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _saved_shapes(program: Program, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    given = program.unpack(operands)
    T, B, _ = program.shape(given["x"])
    sizes = [program.saved, *(given["state"][field].shape[-1] for field in program.kept)]
    return [jax.ShapeDtypeStruct((T, B, size), jnp.float32) for size in sizes]


def _zeros(shapes: Sequence[Any]) -> list[jax.Array]:
    return [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]


def _reference_save(program: Program, *operands: jax.Array) -> list[jax.Array]:
    """The results of `save` where no kernel runs: zeros for what it saves, since nothing reads them."""
    return [*reference(program, *operands), *_zeros(_saved_shapes(program, operands))]


def _primitive(name: str, shapes: Callable, instead: Callable, kernel: Callable) -> Primitive:
    """A primitive that a kernel computes on the CPU, and `instead` elsewhere; `kernel` says what to call."""
    primitive = Primitive(f"flaxrnn_native_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *args, **params: [_aval(shape) for shape in shapes(*args, **params)])

    def compute(*args: Any, **params: Any) -> Any:
        with jax.disable_jit(False):
            return _compiled(primitive, tuple(params.items()))(*args)

    primitive.def_impl(compute)
    elsewhere = mlir.lower_fun(instead, multiple_results=True)

    def lower(ctx: Any, *args: Any, **params: Any) -> Any:
        if ctx.module_context.lowering_parameters.for_export:  # the program may run where there is no kernel
            return elsewhere(ctx, *args, **params)
        try:
            library = build.load(params["program"].text)
        except build.BuildError as error:
            logger.warning("no native kernel for %r: %s; the fused strategy runs it", params["program"].cell, error)
            return elsewhere(ctx, *args, **params)
        direction, sizes = kernel(ctx.avals_in, **params)
        return jax.ffi.ffi_lowering(build.TARGET)(ctx, *args, kernel=f"{library}.{direction}", sizes=sizes)

    mlir.register_lowering(primitive, elsewhere)
    mlir.register_lowering(primitive, lower, platform="cpu")
    return primitive


def _aval(shape: jax.ShapeDtypeStruct) -> Any:
    return jax.core.ShapedArray(shape.shape, shape.dtype)


@functools.lru_cache
def _compiled(primitive: Primitive, params: tuple) -> Callable:
    return jax.jit(functools.partial(primitive.bind, **dict(params)))


def _gradient_shapes(*args: Any, program: Program, want_dx: bool) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(args[number].shape, jnp.float32) for number in _wanted(program, want_dx)]


def _gradient_elsewhere(*args: jax.Array, program: Program, want_dx: bool) -> list[jax.Array]:
    count = len(program.names)
    cotangents = args[len(args) - 1 - program.fields :]
    return reference_gradient(program, want_dx, *args[:count], *cotangents)


scan = _primitive(
    "scan",
    lambda *operands, program: _scan_shapes(program, operands),
    lambda *operands, program: reference(program, *operands),
    lambda operands, program: ("forward", program.sizes(operands, save=False, want_dx=False)),
)
save = _primitive(
    "save",
    lambda *operands, program: _scan_shapes(program, operands) + _saved_shapes(program, operands),
    lambda *operands, program: _reference_save(program, *operands),
    lambda operands, program: ("forward", program.sizes(operands, save=True, want_dx=False)),
)
gradient = _primitive(
    "gradient",
    _gradient_shapes,
    _gradient_elsewhere,
    lambda args, program, want_dx: (
        "backward",
        program.sizes(args[: len(program.names)], save=True, want_dx=want_dx),
    ),
)
tangent = Primitive("flaxrnn_native_tangent")
tangent.multiple_results = True


# ---- derivatives


def _scan_jvp(primals: Sequence, tangents: Sequence, *, program: Program) -> tuple[list, list]:
    y, *others = save.bind(*primals, program=program)
    final, saved = others[: program.fields], others[program.fields :]
    moving = tuple(number for number, one in enumerate(tangents) if not isinstance(one, ad.Zero))
    moved = [tangents[number] for number in moving]
    return [y, *final], tangent.bind(*primals, y, *saved, *moved, program=program, moving=moving)


def _tangent_shapes(*args: Any, program: Program, moving: tuple[int, ...]) -> list[Any]:
    return [_aval(shape) for shape in _scan_shapes(program, args[: len(program.names)])]


def _tangent_transpose(cotangents: Sequence, *args: Any, program: Program, moving: tuple[int, ...]) -> list:
    known = args[: len(args) - len(moving)]
    want_dx = 0 in moving
    found = gradient.bind(*known, *map(ad.instantiate_zeros, cotangents), program=program, want_dx=want_dx)
    gradients = dict(zip(_wanted(program, want_dx), found, strict=True))
    like = args[: len(program.names)]
    return [
        *[None] * len(known),
        *(gradients[number] if number in gradients else jnp.zeros_like(like[number]) for number in moving),
    ]


def _save_jvp(primals: Sequence, tangents: Sequence, *, program: Program) -> tuple[list, list]:
    """For second derivatives; nobody asks for those of the saved values."""
    outputs = save.bind(*primals, program=program)
    function = functools.partial(reference, program, forward_mode=True)
    moved = jax.jvp(function, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))[1]
    rest = outputs[1 + program.fields :]
    return outputs, [*moved, *(ad.Zero(jax.typeof(leaf).to_tangent_aval()) for leaf in rest)]


def _gradient_jvp(primals: Sequence, tangents: Sequence, *, program: Program, want_dx: bool) -> tuple[list, list]:
    outputs = gradient.bind(*primals, program=program, want_dx=want_dx)
    count, last = len(program.names), len(primals) - 1 - program.fields
    chosen = [*range(count), *range(last, len(primals))]
    function = functools.partial(reference_gradient, program, want_dx)
    moved = jax.jvp(
        function,
        tuple(primals[number] for number in chosen),
        tuple(ad.instantiate_zeros(tangents[number]) for number in chosen),
    )[1]
    return outputs, moved


tangent.def_abstract_eval(_tangent_shapes)
ad.primitive_transposes[tangent] = _tangent_transpose
ad.primitive_jvps[scan] = _scan_jvp
ad.primitive_jvps[save] = _save_jvp
ad.primitive_jvps[gradient] = _gradient_jvp


# ---- batching: a new batch axis is merged into the rows; where weights are batched, other strategies run


def _batch_forward(primitive: Primitive, instead: Callable, args: Sequence, dims: Sequence, *, program: Program) -> Any:
    axes = program.row_axes()
    mapped = [dim is not None for dim in dims]
    if any(own and axis is None for own, axis in zip(mapped, axes, strict=True)):
        function = functools.partial(instead, program)
        return _vmapped(function, args, dims)
    size = next(arg.shape[dim] for arg, dim, own in zip(args, dims, mapped, strict=True) if own)
    folded = [
        arg if axis is None else _fold(arg, dim, axis, size) for arg, dim, axis in zip(args, dims, axes, strict=True)
    ]
    outputs = primitive.bind(*folded, program=program)
    rows = [1 if program.time_major else 0, *[0] * program.fields]
    rows += [1] * (len(outputs) - len(rows))
    return [
        output.reshape(*output.shape[:axis], size, output.shape[axis] // size, *output.shape[axis + 1 :])
        for output, axis in zip(outputs, rows, strict=True)
    ], rows


def _fold(arg: jax.Array, dim: Any, axis: int, size: int) -> jax.Array:
    """Moves the new batch axis `dim` in front of `axis`, and merges the two."""
    if dim is None:
        arg = jnp.broadcast_to(jnp.expand_dims(arg, axis), (*arg.shape[:axis], size, *arg.shape[axis:]))
    else:
        arg = jnp.moveaxis(arg, dim, axis)
    return arg.reshape(*arg.shape[:axis], size * arg.shape[axis + 1], *arg.shape[axis + 2 :])


def _vmapped(function: Callable, args: Sequence, dims: Sequence) -> tuple[list, list]:
    in_axes = tuple(None if dim is None else dim for dim in dims)
    outputs = jax.vmap(function, in_axes=in_axes)(*args)
    return outputs, [0] * len(outputs)


def _batch_gradient(args: Sequence, dims: Sequence, *, program: Program, want_dx: bool) -> tuple[list, list]:
    """Each member's own gradient, computed by the fused strategy."""
    return _vmapped(functools.partial(_gradient_elsewhere, program=program, want_dx=want_dx), args, dims)


batching.primitive_batchers[scan] = functools.partial(_batch_forward, scan, reference)
batching.primitive_batchers[save] = functools.partial(_batch_forward, save, _reference_save)
batching.primitive_batchers[gradient] = _batch_gradient
