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

    def resumed(self, step: int) -> None:
        """Says that the training goes on after a step."""
        self.bar.update(self.task, completed=step)
        self.line(f"goes on after step {step}, whose checkpoint was saved")

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of the last steps, `seconds` after the first one began."""
        speed = step / metrics["seconds"]
        numbers = f"{shown(metrics)}  {speed:.1f} steps/s"
        self.bar.update(self.task, completed=step, numbers=numbers)
        if not self.live and (time.perf_counter() - self.last_line > SECONDS_BETWEEN_LINES or step == self.steps):
            left = (self.steps - step) / speed
            self.line(f"step {step}/{self.steps}  {numbers}  {left:.0f} s left")
            self.last_line = time.perf_counter()

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of the validation set."""
        self.line(f"step {step}/{self.steps}  validation {shown(metrics)}")

    def line(self, text: str) -> None:
        """Writes a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True)


def shown(metrics: dict[str, float]) -> str:
    """Metrics for a reader: those of the training itself, not its speed and its learning rate."""
    parts = []
    for name, value in metrics.items():
        if name not in ("seconds", "learning_rate"):
            parts.append(f"{name} {value:.2%}" if name == "accuracy" else f"{name} {value:.4f}")
    return "  ".join(parts)
