"""SIGTERM, by which schedulers ask a program to end."""

import signal
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """A context in which SIGTERM does not end the program, but is known to the training loop.

    Of several processes, one that is asked is enough: JAX agrees with the others on a step after which all stop.
    """

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Self:
        if jax.process_count() == 1:  # else JAX listens itself
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every one."""
        return self._asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)

    def _ask(self, signal_number: int, frame: FrameType | None) -> None:
        self._asked = True
