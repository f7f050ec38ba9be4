"""One Pallas kernel for all time steps, in place of a loop over many small operations."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from flaxrnn.carry import vary_like
from flaxrnn.cells.base import State
from flaxrnn.strategies import pallas_tpu
from flaxrnn.strategies.base import Sequence, Strategy, symbolic
from flaxrnn.strategies.fused_products import DenseProducts
from flaxrnn.strategies.pallas_blocks import STEPS, Plan, TooLargeError
from flaxrnn.strategies.pallas_step import layout_of

VMEM_BYTES = 64 * 2**20
"""The size assumed for a TPU's VMEM where JAX cannot tell."""


@dataclasses.dataclass(frozen=True)
class Pallas(Strategy):
    """Runs any cell on a TPU in one kernel, and its gradient in another; parameters and state stay on the chip.

    Tests compile it for TPU v5e and v6e, and check its numbers in Pallas's interpreter. It has never run on a TPU, so
    "auto" does not choose it. It has no second and no forward-mode derivatives.

    Attributes:
      steps: the most time steps in one block of the kernel's grid.
      vmem_bytes: how much of the chip's VMEM a kernel may use; by default three quarters of it.
      interpret: runs in Pallas's interpreter, slowly, on any backend; passed on to `pallas_call`.
      mesh_axes: the axes of the mesh of `jax.set_mesh` that divide the batch; without them, XLA refuses to partition
        the kernel. Inside your own `jax.shard_map`, where each device has its part already, pass none.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> strategy = flaxrnn.strategies.Pallas(interpret=True)
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 6, 3]), strategy=strategy)
    """

    steps: int = STEPS
    vmem_bytes: int | None = None
    interpret: Any = False
    mesh_axes: tuple[str, ...] = ()

    name = "pallas"
    forward_mode = False

    def __post_init__(self) -> None:
        for field in ("steps", "vmem_bytes"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Pallas: {field} is {value!r}: pass a positive integer")

    def why_not(self, sequence: Sequence) -> str | None:
        if not self.interpret and jax.default_backend() != "tpu":
            return f"it is for TPUs, and JAX runs on {jax.default_backend()}"
        if reason := symbolic(*sequence.shape):
            return reason
        if sequence.cell.feature_axes > 1:
            return "its products are convolutions"
        if 0 in sequence.shape:
            return "the batch is empty"
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(sequence.state)):
            return "the state has fields that are not floating-point numbers"
        plan = self._plan(sequence)
        if jax.sharding.get_abstract_mesh().manual_axes:
            return None  # inside `shard_map`, shapes alone do not suffice to try it
        both = functools.partial(pallas_tpu.gradient, plan)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _arguments(sequence))
        try:
            if self.interpret:
                jax.eval_shape(both, *shapes)
            else:
                jax.jit(both).trace(*shapes).lower(lowering_platforms=("tpu",))
        except TooLargeError as error:
            return str(error)
        except (pltpu.LoweringException, NotImplementedError) as error:
            return f"Mosaic, the compiler of TPU kernels, cannot lower it: {str(error).strip().splitlines()[0]}"
        return None

    def describe(self, sequence: Sequence) -> str:
        del sequence
        return "one kernel for all steps; it has never run on a TPU"

    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        plan, given = self._plan(sequence), sequence[1:5]  # params, state, reset state and steps
        varied = sequence._replace(**dict(zip(sequence._fields[1:5], vary_like(given, given), strict=True)))
        state, outputs = pallas_tpu.run(plan, *_arguments(varied))
        return state, jnp.moveaxis(outputs, 0, sequence.time_axis)

    def _plan(self, sequence: Sequence) -> Plan:
        vmem_bytes = self.vmem_bytes or _vmem_bytes() * 3 // 4
        return Plan(layout_of(sequence), sequence.reverse, vmem_bytes, self.steps, self.interpret, self.mesh_axes)


def _vmem_bytes() -> int:
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except ValueError:
        return VMEM_BYTES


def _arguments(sequence: Sequence) -> tuple:
    """The arguments of `pallas_tpu.run`; shapes, if the sequence holds shapes."""
    cell, params, state, reset_state, steps, *_ = sequence

    def project(params: Any, inputs: Any) -> Any:
        return cell.project(params, inputs, DenseProducts(cell, params))

    shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, steps.inputs)))
    projected = jax.eval_shape(project, params, steps.inputs) if shapes else project(params, steps.inputs)
    return params, state, reset_state, projected, steps.mask, steps.resets
