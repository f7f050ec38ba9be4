"""The axes of a sequence: batch, time, and the feature axes, whose number depends on the cell."""

from typing import Any, NamedTuple

SPATIAL = ("depth", "height", "width")
"""Names of the spatial axes, for messages."""


class Axes(NamedTuple):
    """Where the axes of a sequence are: `[*batch, time, *features]`, or time-major `[time, *batch, *features]`.

    The last feature axis is the one whose size is `input_size` or `output_size`. Those before it are spatial, as
    in `[*batch, time, height, width, channels]`.

    Attributes:
      features: the number of feature axes, `cell.feature_axes`.
      time_major: whether time is the first axis.
    """

    features: int = 1
    time_major: bool = False

    def time(self, shape: tuple[Any, ...]) -> int:
        """Which axis is time."""
        return 0 if self.time_major else len(shape) - self.features - 1

    def steps(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape without features: `[*batch, time]`, or `[time, *batch]`."""
        return shape[: len(shape) - self.features]

    def one_step(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape without time: `[*batch, *features]`."""
        time = self.time(shape)
        return (*shape[:time], *shape[time + 1 :])

    def batch(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape without time and features: `[*batch]`."""
        return self.one_step(shape)[: -self.features]

    def __str__(self) -> str:
        """The shape in words."""
        spatial = self.features - 1
        before = "time, *batch" if self.time_major else "*batch, time"
        if spatial == 0:
            return f"[{before}, features]"
        names = ", ".join(SPATIAL[-spatial:]) if spatial <= len(SPATIAL) else "*spatial"
        return f"[{before}, {names}, channels]"
