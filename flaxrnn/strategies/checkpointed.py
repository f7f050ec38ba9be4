"""O(√time) memory: of the states only each segment's first is kept, and the others are computed a second time."""

import dataclasses
import math

import jax

from flaxrnn.cells.base import State
from flaxrnn.strategies.base import Sequence, Steps, Strategy, symbolic
from flaxrnn.strategies.fused import Fused
from flaxrnn.strategies.plain import Plain
from flaxrnn.strategies.segments import in_segments, segment_length


@dataclasses.dataclass(frozen=True)
class Checkpointed(Strategy):
    """Keeps the state at the beginning of each segment, and runs the segment again in the backward pass.

    Each segment is run by `fused` where that can run the cell, else by `plain`.

    Attributes:
      segments: how many segments the sequence is cut into; by default about √time, which takes the least memory.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> strategy = flaxrnn.strategies.Checkpointed(segments=2)
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 6, 3]), strategy=strategy)

    References:
      Chen et al., `Training deep nets with sublinear memory cost <https://arxiv.org/abs/1604.06174>`_, 2016.
    """

    segments: int | None = None

    name = "checkpointed"
    forward_mode = False

    def __post_init__(self) -> None:
        if self.segments is not None and (not isinstance(self.segments, int) or self.segments < 1):
            raise ValueError(f"Checkpointed: segments is {self.segments!r}: pass a positive integer, or None")

    def why_not(self, sequence: Sequence) -> str | None:
        return symbolic(sequence.shape[0])

    def describe(self, sequence: Sequence) -> str:
        time, length = sequence.shape[0], self._length(sequence.shape[0])
        return f"{-(-time // length)} segments of {length} steps, each run again in the backward pass"

    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        fused = Fused()
        inner = Plain() if fused.why_not(sequence) else fused

        def segment(state: State, steps: Steps) -> tuple[State, jax.Array]:
            return inner.run(sequence._replace(state=state, steps=steps, time_axis=0))

        run = jax.checkpoint(segment, prevent_cse=False)
        return in_segments(run, sequence, self._length(sequence.shape[0]))

    def _length(self, time: int) -> int:
        if self.segments is not None:
            return -(-time // self.segments)
        return segment_length(time, math.isqrt(max(time - 1, 0)) + 1)
