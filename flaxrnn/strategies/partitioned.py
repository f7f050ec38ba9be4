"""Functions that XLA cannot divide over devices, such as kernels, run on each device's part of the batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

SUMMED = -1
"""In place of the batch axis, for an argument or a result without one."""


def along_batch(function: Callable, arguments: tuple, in_axes: tuple, out_axes: Any, mesh_axes: tuple[str, ...]) -> Any:
    """`function(*arguments)`, each device working on the part of the batch that it has.

    Args:
      function: works through a batch of any size, each member on its own.
      arguments: trees of arrays.
      in_axes: for each array, or for a whole tree of them, which axis is the batch, or `SUMMED`: each device has all.
      out_axes: the same for the results; those with `SUMMED` are added up over the devices.
      mesh_axes: the axes of the mesh of `jax.set_mesh` over which the batch is divided; none: on one device, or inside
        a `shard_map`, where arrays are parts already.
    """
    if not mesh_axes:
        return function(*arguments)

    def spec(axis: int) -> PartitionSpec:
        return PartitionSpec() if axis == SUMMED else PartitionSpec(*[None] * axis, mesh_axes)

    def local(*arguments: Any) -> Any:
        def total(axis: int, part: Any) -> Any:
            return jax.lax.psum(part, mesh_axes) if axis == SUMMED else part

        return jax.tree.map(total, out_axes, function(*arguments))

    specs = jax.tree.map(spec, (in_axes, out_axes))
    divided = jax.shard_map(
        local, in_specs=specs[0], out_specs=specs[1], axis_names=set(mesh_axes), check_vma=False
    )  # it is never differentiated, which is what the check is for
    return divided(*arguments)
