"""C++ kernels for the CPU, generated from the cell's own arithmetic and compiled on the machine they run on.

`flaxrnn.native` generates and calls them; this module decides for which cells and sequences.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn.cells.base import Cell, State
from flaxrnn.cells.gated import GatedCell, masked
from flaxrnn.native import build, call
from flaxrnn.native.generate import Generated, generate
from flaxrnn.native.plan import make_plan
from flaxrnn.native.translate import Untranslatable
from flaxrnn.strategies.base import Sequence, Strategy, symbolic
from flaxrnn.strategies.plain import Plain


@dataclasses.dataclass(frozen=True)
class Native(Strategy):
    """Runs a gated cell on the CPU in a C++ kernel generated from its `recur` and the gradient of `recur`.

    The machine's C++ compiler compiles the kernel when the first program that uses it is compiled; the library is kept
    in the user's cache folder. If the build fails, the fused strategy runs in its place, and the reason is logged.

    It defines its own reverse-mode derivative. Further derivatives are computed by the other strategies.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 6, 3]), strategy="native")
      >>> outputs.shape
      (2, 6, 4)
    """

    name = "native"
    forward_mode = False

    def why_not(self, sequence: Sequence) -> str | None:
        return (
            _why_not_here()
            or symbolic(*sequence.shape)
            or _why_not_these(sequence)
            or build.why_not()
            or _failure(_generated(*_kind(sequence)))
        )

    def describe(self, sequence: Sequence) -> str:
        del sequence
        return "C++ generated from the cell's own arithmetic"

    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        if 0 in sequence.shape:
            return Plain().run(sequence)
        time, *batch = sequence.shape
        program, operands = _operands(sequence)
        y, *final = call.scan.bind(*operands, program=program)
        shape = (time, *batch) if program.time_major else (*batch, time)
        state = [leaf.reshape(*batch, leaf.shape[-1]) for leaf in final]
        return type(sequence.state)(*state), y.reshape(*shape, y.shape[-1])


def _why_not_here() -> str | None:
    """Why no kernel runs on these devices."""
    if jax.default_backend() != "cpu":
        return f"it is for the CPU, and the backend is {jax.default_backend()}"
    if jax.local_device_count() > 1:
        return "a kernel cannot be spread over several devices"
    if not jax.sharding.get_abstract_mesh().empty:
        return "a kernel cannot be spread over a mesh"
    return None


def _why_not_these(sequence: Sequence) -> str | None:
    """Why no kernel runs this kind of cell, or these dtypes."""
    cell, kind = sequence.cell, type(sequence.cell).__name__
    if not isinstance(cell, GatedCell):
        return f"{kind} is not a GatedCell"
    if type(cell).project is not GatedCell.project:
        return f"{kind} overrides project"
    if cell.feature_axes > 1:
        return "its products are convolutions"
    if cell.layer_norm:
        return "layer normalization operates along the feature axis"
    if not isinstance(sequence.steps.inputs, (jax.Array, jax.ShapeDtypeStruct)):
        return "its inputs are not a single array"
    leaves = jax.tree.leaves((sequence.params, sequence.state, sequence.steps.inputs))
    if other := sorted({str(leaf.dtype) for leaf in leaves} - {"float32"}):
        return f"it computes in float32 only, and some arrays are {' and '.join(other)}"
    return None


def _kind(sequence: Sequence) -> tuple[Cell, tuple, frozenset[str]]:
    """What the C++ depends on: the cell, its parameters' shapes, and the names of those with one value per row."""
    cell, input_size = sequence.cell, sequence.steps.inputs.shape[-1]
    batch = sequence.shape[1:]
    own = _init_names(cell, input_size)
    per_row = frozenset(name for name in sequence.params if name not in own and name != "input_mask")
    shapes = tuple(
        (name, leaf.shape[len(batch) :] if name in per_row else leaf.shape)
        for name, leaf in sorted(sequence.params.items())
        if name != "input_mask"
    )
    return cell, shapes, per_row


@functools.lru_cache(maxsize=256)
def _init_names(cell: Cell, input_size: int) -> frozenset[str]:
    return frozenset(jax.eval_shape(functools.partial(cell.init, input_size=input_size), jax.random.key(0)))


@functools.lru_cache(maxsize=256)
def _generated(cell: GatedCell, shapes: tuple, per_row: frozenset[str]) -> Generated | str:
    """The C++ of a cell, or why there is none, as half a sentence."""
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes}
    try:
        return generate(make_plan(cell, params, per_row))
    except Untranslatable as reason:
        return str(reason)
    except Exception as error:  # a cell of the user's may need batch axes, which a kernel's step has not
        first_line = str(error).partition("\n")[0]
        return f"its step cannot be traced for one sequence ({type(error).__name__}: {first_line})"


def _failure(generated: Generated | str) -> str | None:
    return generated if isinstance(generated, str) else build.failure(generated.text)


def _operands(sequence: Sequence) -> tuple[call.Program, list[jax.Array]]:
    """What the kernel is called with; the batch axes are merged into one."""
    cell, params, steps = sequence.cell, sequence.params, sequence.steps
    generated = _generated(*_kind(sequence))
    assert isinstance(generated, Generated)
    time, *batch = sequence.shape
    rows = math.prod(batch)
    time_major = sequence.time_axis == 0
    inputs = masked(params, "input_mask", steps.inputs)
    if not time_major:
        inputs = jnp.moveaxis(inputs, 0, sequence.time_axis)
    program = call.Program(
        cell,
        generated.text,
        generated.kernels,
        generated.small,
        generated.per_row,
        generated.widths,
        generated.saved,
        generated.output_field,
        fields=len(sequence.state),
        bias="bias" in params,
        masked=steps.mask is not None,
        reset=steps.resets is not None,
        time_major=time_major,
        reverse=sequence.reverse,
    )

    def flat(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(rows, *leaf.shape[len(batch) :])

    def marks(marked: jax.Array | None) -> list[jax.Array]:
        return [] if marked is None else [jnp.asarray(marked, jnp.float32).reshape(time, rows)]

    small = [flat(params[name]) if name in program.per_row else params[name] for name in program.small]
    names = ["kernel", *["bias"] * program.bias, *program.kernels]
    operands = [
        inputs.reshape(*((time, rows) if time_major else (rows, time)), inputs.shape[-1]),
        *(params[name] for name in names),
        *small,
        *map(flat, sequence.state),
        *marks(steps.mask),
        *marks(steps.resets),
        *(map(flat, sequence.reset_state) if program.reset else ()),
    ]
    return program, operands
