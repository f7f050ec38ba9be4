"""Checkpoints, by orbax: written beside the training, whole or not at all, and checked when they are read."""

import json
import logging
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from train import devices
from train.errors import UserError


class Checkpoints:
    """The checkpoints of one run: the last ones, and the best.

    Args:
      folder: where they are; it is made.
      keep: how many of the last ones are kept.

    Raises:
      UserError: if there are some, and none can be read.
    """

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(n=1, get_metric_fn=_goodness, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_goodness,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self.folder = folder
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of each checkpoint without a validation
        self._set_aside(self._unreadable())
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: Any, position: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Begins to write a checkpoint; it is written while the training goes on.

        Args:
          step: how many steps have been done.
          state: arrays.
          position: where the reading of the data stands, as JSON.
          metrics: of the validation at this step, if there was one; the lowest `loss` is the best.

        Raises:
          UserError: if this one, or the one before it, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            rest=ocp.args.JsonSave({"position": position, "checksum": int(checksum(state))}),
        )
        self._told(self._manager.save, step, args=items, metrics=metrics, force=True)

    def wait(self) -> None:
        """Returns when all is written."""
        self._told(self._manager.wait_until_finished)

    def kept(self) -> str:
        """What is there, as the end of a message."""
        step = max(self._manager.all_steps(), default=None)
        return "" if step is None else f"; the checkpoint of step {step} is kept"

    def close(self) -> None:
        """Ends the writing, and gives back what it needed."""
        self._manager.close()

    def latest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that is undamaged: its step, its state, and where the data stood.

        Args:
          like: the arrays' shapes, dtypes and shardings, as `jax.ShapeDtypeStruct`.

        Returns:
          None if there is none. Damaged ones that are newer are warned of, and set aside.

        Raises:
          UserError: if none of them can be read; they are left as they are.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = step, *self._read(step, like)
            except Exception as error:  # whatever a damaged file makes its reader do
                damaged[step] = _short(error)
                continue
            if damaged:
                self._set_aside(damaged)
                self._manager.reload()
            return found
        if damaged:
            raise self._none_readable(damaged)
        return None

    def _unreadable(self) -> dict[int, str]:
        """The checkpoints whose small files are damaged, and how; orbax reads those of all checkpoints at once."""
        damaged: dict[int, str] = {}
        steps = {int(path.name): path for path in self.folder.glob("*") if path.name.isdecimal()}
        for step, path in steps.items():
            try:
                json.loads((path / "_CHECKPOINT_METADATA").read_bytes())
                metrics = path / "metrics" / "metrics"
                if metrics.exists():
                    float(_goodness(json.loads(metrics.read_bytes())))
            except (OSError, ValueError, TypeError, KeyError) as error:
                damaged[step] = _short(error)
        if damaged and damaged.keys() == steps.keys():
            raise self._none_readable(damaged)
        return damaged

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Moves damaged checkpoints to the folder `damaged` beside that of the others, and says so."""
        aside = self.folder.parent / "damaged"
        for step, why in damaged.items():
            if devices.is_first_process():
                aside.mkdir(exist_ok=True)
                place = aside / str(step)
                while place.exists():
                    place = place.with_name(place.name + "-again")
                (self.folder / str(step)).rename(place)
                print(f"the checkpoint of step {step} is damaged ({why}): it is now {place}", file=sys.stderr)
        devices.wait_for_all("damaged")

    def _none_readable(self, damaged: dict[int, str]) -> UserError:
        step, why = max(damaged.items())
        return UserError(
            f"no checkpoint in {self.folder} can be read (of step {step}: {why}): move that folder away to begin anew"
        )

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), rest=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        if int(checksum(restored.state)) != restored.rest["checksum"]:
            raise ValueError("its checksum is another")
        return restored.state, restored.rest["position"]

    def _told(self, function: Any, *arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except Exception as error:
            raise UserError(
                f"the checkpoint cannot be written in {self.folder} ({_short(error)}): make room there, and start "
                f"again with the same --workdir{self.kept()}"
            ) from error


def _goodness(metrics: dict[str, float]) -> float:
    """By which the best checkpoint is known."""
    return -metrics["loss"]


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """A number that changes with any bit of any array, however they lie on the devices."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        total = total * 31 + jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
