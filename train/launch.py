"""From the options of a run to its parameters: what every program does between its data and its results."""

from collections.abc import Callable
from typing import Any

import grain
from jax.sharding import Mesh
from rich.console import Console

from train import devices, loop
from train.errors import UserError
from train.options import RunOptions
from train.progress import ProgressDisplay
from train.report import Report
from train.workdir import Workdir

LOG_EVERY = 20


def launch(
    task: loop.Task,
    batches: grain.IterDataset,
    validate: Callable[[Any], dict[str, float]],
    *,
    options: RunOptions,
    workdir: Workdir,
    mesh: Mesh,
    console: Console,
    steps: int,
    learning_rate: float,
    validate_every: int,
) -> Any:
    """Trains `task` as `options` say, shows and logs how it goes, and leaves the parameters in `workdir`.

    Args:
      task: what is learned.
      batches: what it is learned from; of each batch this process's part.
      validate: from parameters to metrics, `loss` among them.
      options: how the run is kept, and on what it runs.
      workdir: where it is kept; a run that was broken off there is gone on with.
      mesh: the devices.
      console: where to show how it goes.
      steps: how many steps to do.
      learning_rate: the highest.
      validate_every: steps between two validations.

    Returns:
      The parameters, in NumPy's arrays.

    Raises:
      UserError: as `train.loop.train` does, and if there are too few steps for a profile.
    """
    if options.profile and steps <= loop.PROFILED:
        raise UserError(f"--profile begins after {loop.PROFILED} steps, but there are {steps}: pass more --steps")
    plan = loop.Plan(
        steps=steps,
        learning_rate=learning_rate,
        log_every=LOG_EVERY,
        validate_every=validate_every,
        checkpoint_every=options.checkpoint_every or validate_every,
        profile=str(workdir.path / "profile") if options.profile else None,
    )
    first = devices.is_first_process()
    with ProgressDisplay(console if first else Console(quiet=True), steps) as display:
        params = loop.train(
            task,
            batches,
            plan,
            seed=options.seed,
            mesh=mesh,
            checkpoints=workdir.checkpoints,
            validate=validate,
            reporter=Report(display, workdir, first and options.log == "tensorboard"),
        )
    workdir.write_params(params)
    return params
