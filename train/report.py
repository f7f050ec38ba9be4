"""What the user and the workdir are told of a training."""

from typing import Any

from rich.console import Console
from rich.table import Table

from train.progress import ProgressDisplay
from train.workdir import Workdir


class Report:
    """Tells the user and the workdir how the training goes.

    Args:
      display: what the user sees.
      workdir: where the metrics are written.
      tensorboard: whether TensorBoard's files are written too.
    """

    def __init__(self, display: ProgressDisplay, workdir: Workdir, tensorboard: bool = False) -> None:
        self.display = display
        self.workdir = workdir
        self.writer: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(workdir.path))

    def resumed(self, step: int) -> None:
        """Says from where the training goes on."""
        self.display.resumed(step)
        self.workdir.resumed(step)

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the means of some training steps."""
        self.display.train(step, metrics)
        self._log("train", step, metrics)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the results of a validation."""
        self.display.validation(step, metrics)
        self._log("validation", step, metrics)

    def _log(self, split: str, step: int, metrics: dict[str, float]) -> None:
        self.workdir.log(split=split, step=step, **metrics)
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(f"{split}/{name}", value, step)
            self.writer.flush()


def show(console: Console, rows: dict[str, str]) -> None:
    """Prints results as a short table."""
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, highlight=False)
