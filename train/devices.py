"""The devices of one process or of many: their mesh, and how arrays are laid out over them."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.errors import UserError
from train.options import RunOptions

AXES = ("data", "model")


def join_processes(options: RunOptions) -> None:
    """With `--distributed`, makes this process one of several; before anything is computed.

    Raises:
      UserError: if the others cannot be found.
    """
    if not options.distributed:
        return
    try:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process_id, heartbeat_timeout_seconds=20
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--distributed: the other processes were not found ({error}): pass --coordinator=HOST:PORT, --processes "
            "and --process-id, where neither a TPU slice nor Slurm nor Open MPI tells them"
        ) from error


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def make_mesh(text: str | None, batch_size: int) -> Mesh:
    """The mesh that `--mesh` describes, of the axes "data" and "model".

    Args:
      text: such as `data:4,model:2`; None for all devices on "data".
      batch_size: how many sequences a batch has, over all processes.

    Raises:
      UserError: if there are not so many devices, or a batch cannot be divided by the first axis.
    """
    devices = jax.devices()
    sizes = {"data": len(devices), "model": 1} if text is None else _parse(text)
    if sizes["data"] * sizes["model"] != len(devices):
        shown = f"--mesh={text}" if text else "the mesh"
        raise UserError(f"{shown} has {sizes['data'] * sizes['model']} devices, but there are {len(devices)}")
    if sizes["data"] % jax.process_count():
        raise UserError(
            f"--mesh={text}: {sizes['data']} parts of a batch cannot be divided over {jax.process_count()} processes: "
            "pass a multiple of that for data"
        )
    if batch_size % sizes["data"]:
        raise UserError(
            f"--batch-size={batch_size} cannot be divided over {sizes['data']} devices: pass a multiple of that, or "
            "--mesh=data:N,model:M with a smaller N"
        )
    return Mesh(np.array(devices).reshape(sizes["data"], sizes["model"]), AXES)


def _parse(text: str) -> dict[str, int]:
    sizes = {"data": 1, "model": 1}
    for part in text.split(","):
        name, _, size = part.partition(":")
        if name not in AXES or not size.isdecimal() or int(size) < 1:
            raise UserError(f"--mesh={text}: pass sizes of the axes data and model, such as data:4,model:2")
        sizes[name] = int(size)
    return sizes


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """How each array of a training state lies: its last axis over "model" where that divides it, else on all alike."""

    def one(leaf: Any) -> NamedSharding:
        if leaf.ndim and mesh.shape["model"] > 1 and leaf.shape[-1] % mesh.shape["model"] == 0:
            return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "model"))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(one, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How batches, and what is carried from one to the next, lie: their first axis over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """A global batch out of the part of it that this process has read."""
    if mesh.size == 1:
        return batch  # `jit` takes it there, at less cost
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


def local_rows(batch_size: int) -> slice:
    """Which rows of each batch this process reads."""
    count, index = jax.process_count(), jax.process_index()
    return slice(index * batch_size // count, (index + 1) * batch_size // count)
