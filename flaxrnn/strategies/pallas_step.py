"""A cell's step as a Pallas kernel runs it: on lists of arrays with one batch axis, with the products kept apart."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from flaxrnn.cells.base import Cell
from flaxrnn.cells.products import MatrixProducts
from flaxrnn.strategies.base import Sequence


class Arrays(NamedTuple):
    """The arrays that a kernel reads.

    Attributes:
      kernels: the matrices that `recur` multiplies by `product`, by name.
      shared: the parameters that it uses in any other way, reshaped to at least two axes.
      own: those with a batch axis, `[batch, ...]`: dropout masks.
      state: the fields of the state before the first step, `[batch, ...]`.
      reset: the fields of the state that a reset brings back, `[batch, ...]`; none without resets.
      projected: the leaves of the result of `cell.project`, `[time, batch, ...]`.
      marks: mask and resets, integers `[time, batch, 1]`, or None.
    """

    kernels: Any
    shared: Any
    own: Any
    state: Any
    reset: Any
    projected: Any
    marks: Any


@dataclasses.dataclass(frozen=True)
class Products(MatrixProducts):
    """The products of one step; `values` lists what was multiplied, `calls` the kernels' names and the gates.

    Attributes:
      probes: zeros to add to the results, whose gradients are then those of the results; none in the forward pass.
    """

    probes: list[jax.Array] = dataclasses.field(default_factory=list)
    calls: list[tuple[str, slice | None]] = dataclasses.field(default_factory=list)
    values: list[jax.Array] = dataclasses.field(default_factory=list)

    def __call__(
        self, name: str, values: jax.Array, *, gates: slice | None = None, add: tuple[jax.Array, ...] | None = None
    ) -> Any:
        self.calls.append((name, gates))
        self.values.append(values)
        return super().__call__(name, values, gates=gates, add=add)

    def multiply(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        if not self.probes:
            return forward_product(values, kernel)
        return _multiply(values, kernel) + self.probes[len(self.values) - 1]


def forward_product(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`values @ kernel`, summed in at least float32."""
    dtype = jnp.result_type(values, kernel)
    return _dot(values.astype(dtype), kernel.astype(dtype), 0).astype(dtype)


@jax.custom_vjp
def _multiply(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`values @ kernel` without a gradient for the kernel, which is computed for all steps at once."""
    return forward_product(values, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
    kernel, like = saved
    return _dot(gradient, kernel.astype(gradient.dtype), 1).astype(like.dtype), None


def _dot(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    """The product of two matrices over the last axis of the one and `axis` of the other, in at least float32."""
    wide = jnp.promote_types(left.dtype, jnp.float32)
    return jax.lax.dot_general(left, right, (((left.ndim - 1,), (axis,)), ((), ())), preferred_element_type=wide)


_multiply.defvjp(
    lambda values, kernel: (forward_product(values, kernel), (kernel, jnp.zeros((), values.dtype))), _backward
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the arguments of `cell.recur` map to `Arrays`.

    Attributes:
      cell: the cell.
      batch_shape: the batch axes, which a kernel sees merged into one.
      params, state, projected: their tree structures.
      shapes: the shape of each parameter.
      roles: the field of `Arrays` for each parameter, "shared" or "own"; None if `recur` uses it only in products.
      kernels: the names of the parameters used in products.
      calls: each product's kernel, first and last gate (None: no gates), and the number of the field of the state that
        it multiplies (None: something else).
      kinds: the dtype of each leaf of `projected`.
      flat: for each of these leaves, whether it has no feature axis.
    """

    cell: Cell
    batch_shape: tuple[int, ...]
    params: Any
    state: Any
    projected: Any
    shapes: tuple[tuple[int, ...], ...]
    roles: tuple[str | None, ...]
    kernels: tuple[str, ...] = ()
    calls: tuple[tuple[str, tuple[int, int] | None, int | None], ...] = ()
    kinds: tuple[Any, ...] = ()
    flat: tuple[bool, ...] = ()

    def arrays(self, params: Any, state: Any, reset_state: Any, projected: Any, mask: Any, resets: Any) -> Arrays:
        """The arguments of a sequence, with time first and one batch axis."""
        roles = list(zip(jax.tree.leaves(params), self.roles, strict=True))
        mask, resets = (None if marks is None else self.merge(marks, 1) for marks in (mask, resets))
        return Arrays(
            {name: params[name] for name in self.kernels},
            [leaf.reshape((1,) * (2 - leaf.ndim) + leaf.shape) for leaf, role in roles if role == "shared"],
            [self.merge(leaf, 0) for leaf, role in roles if role == "own"],
            self.merge_state(state),
            [] if resets is None else self.merge_state(reset_state),
            [self.merge(leaf, 1) for leaf in jax.tree.leaves(projected)],
            (mask, resets),
        )

    def merge(self, leaf: jax.Array, at: int) -> jax.Array:
        """Merges the batch axes, which begin at `at`; adds a missing feature axis, and makes booleans integers."""
        rest = leaf.shape[at + len(self.batch_shape) :] or (1,)
        leaf = leaf.reshape(*leaf.shape[:at], math.prod(self.batch_shape), *rest)
        return leaf.astype(jnp.int32) if leaf.dtype == bool else leaf

    def unmerge(self, leaf: jax.Array, at: int) -> jax.Array:
        """Restores the batch axes of an array with features."""
        return leaf.reshape(*leaf.shape[:at], *self.batch_shape, *leaf.shape[at + 1 :])

    def merge_state(self, state: Any) -> list[jax.Array]:
        """The fields of a state, with one batch axis."""
        return [self.merge(leaf, 0) for leaf in jax.tree.leaves(state)]

    def unmerge_state(self, fields: list[jax.Array]) -> Any:
        """The state of fields with one batch axis."""
        return jax.tree.unflatten(self.state, [self.unmerge(leaf, 0) for leaf in fields])

    def unmerge_projected(self, floats: list[jax.Array]) -> Any:
        """The gradient of the result of `cell.project`; None for leaves that are not floating-point."""
        left = iter(floats)
        shape = self.batch_shape
        leaves = [
            None
            if not jnp.issubdtype(kind, jnp.floating)
            else (leaf := next(left)).reshape(len(leaf), *shape)
            if flat
            else self.unmerge(next(left), 1)
            for kind, flat in zip(self.kinds, self.flat, strict=True)
        ]
        return jax.tree.unflatten(self.projected, leaves)

    def unmerge_params(self, params: Any, shared: list[jax.Array], own: list[jax.Array]) -> Any:
        """The parameters' gradients apart from products; zero where `recur` uses them in products only, or never."""
        left = {"shared": iter(shared), "own": iter(own)}
        leaves = [
            None
            if not jnp.issubdtype(leaf.dtype, jnp.floating)
            else jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))
            if role is None
            else next(left[role]).reshape(leaf.shape)
            for leaf, role in zip(jax.tree.leaves(params), self.roles, strict=True)
        ]
        return jax.tree.unflatten(self.params, leaves)

    def step(
        self,
        kernels: dict[str, Any],
        shared: list,
        own: list,
        state: list,
        reset: list,
        projected: list,
        marks: tuple[Any, Any],
        probes: list | None = None,
    ) -> tuple[tuple[list, jax.Array], Products]:
        """A step under mask and resets, over a block of the batch: `((fields, output), products)`."""
        rows = state[0].shape[0]
        left = {"shared": iter(shared), "own": iter(own)}
        leaves = [self._parameter(left, role, shape, rows) for role, shape in zip(self.roles, self.shapes, strict=True)]
        params = jax.tree.unflatten(self.params, leaves)
        inputs = [_unmerge(*leaf) for leaf in zip(projected, self.kinds, self.flat, strict=True)]
        mask, resets = marks
        product = Products(self.cell, kernels, probes or [])
        before = state if resets is None else [_where(resets, *pair) for pair in zip(reset, state, strict=True)]
        after, output = self.cell.recur(
            params, jax.tree.unflatten(self.state, before), jax.tree.unflatten(self.projected, inputs), product
        )
        fields = jax.tree.leaves(after)
        if mask is not None:
            fields = [_where(mask, *pair) for pair in zip(fields, state, strict=True)]
            output = _where(mask, output, jnp.zeros_like(output))
        return (fields, output), product

    def _parameter(self, left: dict, role: str | None, shape: tuple[int, ...], rows: int) -> jax.Array:
        if role is None:
            return jnp.zeros((), jnp.float32)  # never read
        return next(left[role]).reshape((rows, *shape[len(self.batch_shape) :]) if role == "own" else shape)


def _unmerge(leaf: jax.Array, kind: Any, flat: bool) -> jax.Array:
    leaf = leaf != 0 if jnp.issubdtype(kind, jnp.bool_) else leaf
    return leaf[..., 0] if flat else leaf


def _where(marks: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
    """`jnp.where` for marks that are integers, `[batch, 1]`."""
    marks = marks.reshape(len(marks), *(1,) * (yes.ndim - 1))
    return jnp.where(jnp.broadcast_to(marks, yes.shape) != 0, yes, no)


def layout_of(sequence: Sequence) -> Layout:
    """How the arguments of a sequence's cell map to `Arrays`; shapes suffice."""
    cell, batch_shape, projected = sequence.cell, sequence.shape[1:], sequence.projected()
    leaves, params = jax.tree.flatten(sequence.params)
    fields, state = jax.tree.flatten(sequence.state)
    inputs, whole = jax.tree.flatten(projected)
    matrices = {name: leaf for name, leaf in sequence.params.items() if getattr(leaf, "ndim", 0) == 2}
    calls: list[tuple[str, slice | None]] = []

    def step(leaves: list, matrices: dict, fields: list, inputs: list) -> Any:
        product = Products(cell, matrices)
        before, projected = jax.tree.unflatten(state, fields), jax.tree.unflatten(whole, inputs)
        result = cell.recur(jax.tree.unflatten(params, leaves), before, projected, product)
        calls.extend(product.calls)
        return result, product.values

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    jaxpr = jax.make_jaxpr(step)(shapes, matrices, fields, inputs).jaxpr
    used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    state_variables = jaxpr.invars[len(leaves) + len(matrices) :][: len(fields)]
    values = jaxpr.outvars[len(jaxpr.outvars) - len(calls) :]
    roles = ("own" if own else "shared" for own in _with_batch_axes(sequence))
    return Layout(
        cell,
        batch_shape,
        params,
        state,
        whole,
        shapes=tuple(leaf.shape for leaf in leaves),
        roles=tuple(role if use else None for role, use in zip(roles, used, strict=False)),
        kernels=tuple(dict.fromkeys(name for name, _ in calls)),
        calls=tuple(
            (
                name,
                None if gates is None else gates.indices(len(cell.gates))[:2],
                next((number for number, field in enumerate(state_variables) if field is value), None),
            )
            for (name, gates), value in zip(calls, values, strict=True)
        ),
        kinds=tuple(leaf.dtype for leaf in inputs),
        flat=tuple(leaf.ndim == len(batch_shape) for leaf in inputs),
    )


def _with_batch_axes(sequence: Sequence) -> list[bool]:
    """Which parameters have batch axes: those that `perturb` adds for one pass, and `init` does not make."""
    batch_shape = sequence.shape[1:]
    size = jax.tree.leaves(sequence.steps.inputs)[0].shape[-1]
    drawn = jax.eval_shape(lambda key: sequence.cell.init(key, size), jax.random.key(0))
    known = {path: leaf.shape for path, leaf in jax.tree.leaves_with_path(drawn)}
    return [
        bool(batch_shape) and leaf.shape != known.get(path) and leaf.shape[: len(batch_shape)] == batch_shape
        for path, leaf in jax.tree.leaves_with_path(sequence.params)
    ]
