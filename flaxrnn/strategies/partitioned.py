"""Runs functions that XLA cannot partition, such as kernels, on each device's part of the batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

SUMMED = -1
"""Stands for the batch axis of an argument or a result that has none."""


def along_batch(function: Callable, arguments: tuple, in_axes: tuple, out_axes: Any, mesh_axes: tuple[str, ...]) -> Any:
    """`function(*arguments)`, with each device working on its own part of the batch.

    Args:
      function: treats each member of the batch independently; the batch may have any size.
      arguments: trees of arrays.
      in_axes: the batch axis of each array, or of each whole tree of arrays; `SUMMED` replicates it on every device.
      out_axes: the same for the results; those with `SUMMED` are summed over the devices.
      mesh_axes: the axes of the mesh of `jax.set_mesh` that divide the batch; none on one device, or inside a
        `shard_map`, where each device already has its part.
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
    )  # the check is for differentiation, and this is never differentiated
    return divided(*arguments)
