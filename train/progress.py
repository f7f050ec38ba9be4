"""What is seen while a program trains: a progress bar on a terminal, plain lines everywhere else."""

import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """A context in which the steps of a training are shown as they are done.

    Args:
      console: where to write.
      steps: how many steps there will be.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self.steps = steps
        self.live = console.is_terminal and os.environ.get("CI") != "true"
        self.bar = Progress(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("train", total=steps, numbers="compiling")
        self.last_line = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def train(self, step: int, loss: float, accuracy: float, seconds: float) -> None:
        """Shows the loss and the accuracy of the last steps, `seconds` after the first one began."""
        speed = step / seconds
        numbers = f"loss {loss:.4f}  accuracy {accuracy:.2%}  {speed:.1f} steps/s"
        self.bar.update(self.task, completed=step, numbers=numbers)
        if not self.live and (time.perf_counter() - self.last_line > SECONDS_BETWEEN_LINES or step == self.steps):
            left = (self.steps - step) / speed
            self.line(f"step {step}/{self.steps}  {numbers}  {left:.0f} s left")
            self.last_line = time.perf_counter()

    def validation(self, step: int, loss: float, accuracy: float) -> None:
        """Shows the loss and the accuracy on the validation set."""
        self.line(f"step {step}/{self.steps}  validation loss {loss:.4f}  accuracy {accuracy:.2%}")

    def line(self, text: str) -> None:
        """Writes a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True)
