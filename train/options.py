"""The options that all programs share: how a run is kept, and on what it runs."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro

import flaxrnn
from train.errors import UserError


def default(text: str) -> Any:
    """What `--help` says in place of an option's default."""
    return tyro.conf.arg(help_behavior_hint=f"({text})")


def flag(name: str) -> str:
    """The option of the command line that sets the field `name`."""
    return f"--{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is kept, and on what it runs; none of it but `seed` and `precision` changes what is computed."""

    seed: int = 0
    """For the initial weights and the order of the data. The same seed gives the same numbers."""
    workdir: Annotated[pathlib.Path | None, default("default: runs/PROGRAM-DATE")] = None
    """Where the run leaves its checkpoints, results and pictures. One that was broken off in there is gone on with."""
    resume: bool = False
    """Go on with the newest run of this program in runs/ that was broken off."""
    checkpoint_every: Annotated[int | None, default("default: at each validation")] = None
    """Steps between two checkpoints."""
    keep: int = 2
    """How many of the last checkpoints are kept, besides the best."""
    log: Literal["jsonl", "tensorboard"] = "jsonl"
    """Write TensorBoard's files too, in the workdir; metrics.jsonl is written in any case."""
    profile: bool = False
    """Write a profile of ten steps to the workdir, for `xprof` or Perfetto."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters are kept in float32 in any case."""
    strategy: Annotated[str, tyro.conf.arg(metavar="|".join(["auto", *flaxrnn.STRATEGIES]))] = "auto"
    """How the steps of a sequence are run; see docs/strategies.md."""
    mesh: Annotated[str | None, default("default: data:DEVICES")] = None
    """How the devices stand, such as data:4,model:2: batches are split over the first axis, kernels over the second."""
    distributed: bool = False
    """One of several processes that train together; on TPU slices, Slurm and Open MPI they find each other."""
    coordinator: Annotated[str | None, default("default: found by JAX")] = None
    """HOST:PORT of the first process, with --distributed."""
    processes: Annotated[int | None, default("default: found by JAX")] = None
    """How many processes there are."""
    process_id: Annotated[int | None, default("default: found by JAX")] = None
    """Which of them this one is, from 0."""

    def check(self) -> None:
        """Raises a `UserError` unless the numbers can be run with."""
        for name in ("checkpoint_every", "keep", "processes"):
            check_positive(self, name)
        if self.strategy != "auto" and self.strategy not in flaxrnn.STRATEGIES:
            known = ", ".join(["auto", *flaxrnn.STRATEGIES])
            raise UserError(f"--strategy={self.strategy}: there is no such strategy: pass one of {known}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed={self.seed}: pass a number from 0 to {2**32 - 1}")
        for name in ("coordinator", "processes", "process_id"):
            if getattr(self, name) is not None and not self.distributed:
                raise UserError(f"{flag(name)} is for several processes: pass --distributed too")
        if self.resume and self.workdir is not None:
            raise UserError("--resume finds a workdir by itself: pass it or --workdir, which goes on with what it has")

    def numbers(self) -> dict[str, Any]:
        """The options that say what is computed, by which a run is known again."""
        how = {field.name for field in dataclasses.fields(RunOptions)} - {"seed", "precision"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in how | {"data_dir"}}


def check_positive(options: Any, *names: str) -> None:
    """Raises a `UserError` unless the numbers of those names are positive, or None."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < 2**31:
            raise UserError(f"{flag(name)}={value}: pass a positive number below 2^31")


def check_probability(options: Any, *names: str) -> None:
    """Raises a `UserError` unless the numbers of those names are probabilities below one."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value < 1:
            raise UserError(f"{flag(name)}={value}: pass a probability, from 0 up to but not 1")
