"""What all strategies share: the sequence to run, one guarded step of it, and what a strategy has to say of itself."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flaxrnn.cells.base import Cell, State
from flaxrnn.cells.products import MatrixProducts


class Steps(NamedTuple):
    """What is known of each time step before the first one runs; every leaf has time as its first axis.

    Attributes:
      inputs: `[time, *batch, *features]`; finite wherever the mask is False.
      mask: `[time, *batch]`, False where the state is held and the output is zero; None for no such step.
      resets: `[time, *batch]`, True where the state becomes the reset state before the step; None for no such step.
    """

    inputs: Any
    mask: jax.Array | None = None
    resets: jax.Array | None = None


class Sequence(NamedTuple):
    """A cell and the sequence to run it over. To plan, shapes suffice: leaves may be `jax.ShapeDtypeStruct`s.

    Attributes:
      cell: the cell.
      params: its parameters.
      state: the state before the first step.
      reset_state: the state that a reset brings back.
      steps: inputs, mask and resets.
      time_axis: which axis of the outputs is time.
      reverse: whether to begin at the end.
      unroll: how many steps XLA puts into one turn of a loop.
    """

    cell: Cell
    params: Any
    state: State
    reset_state: State
    steps: Steps
    time_axis: int = 0
    reverse: bool = False
    unroll: int = 1

    @property
    def shape(self) -> tuple[Any, ...]:
        """`(time, *batch)`; symbolic dimensions under `jax.export`."""
        first = jax.tree.leaves(self.state)[0]
        own = len(jax.tree.leaves(jax.eval_shape(self.cell.initial_state))[0].shape)
        batch = first.shape[: first.ndim - own - (self.cell.feature_axes - 1)]
        return (jax.tree.leaves(self.steps.inputs)[0].shape[0], *batch)

    def one_step(self) -> Any:
        """The shapes of one step's inputs."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.steps.inputs)

    def projected(self) -> Any:
        """The shapes of what `cell.project` gives for one step."""

        def project(params: Any, inputs: Any) -> Any:
            return self.cell.project(params, inputs, MatrixProducts(self.cell, params))

        return jax.eval_shape(project, self.params, self.one_step())


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """A way to run a cell over a sequence. All strategies give the same numbers.

    To add one, write a file with a subclass and name it in `flaxrnn.strategies.STRATEGIES`. Options are fields.
    """

    name: ClassVar[str]
    """What `flaxrnn.scan` takes as `strategy`."""
    forward_mode: ClassVar[bool] = True
    """Whether it has forward-mode derivatives."""

    @abc.abstractmethod
    def why_not(self, sequence: Sequence) -> str | None:
        """Why it cannot run this cell over these shapes, on this backend, as half a sentence; None if it can."""

    @abc.abstractmethod
    def describe(self, sequence: Sequence) -> str:
        """How it would go through the sequence, as half a sentence."""

    @abc.abstractmethod
    def run(self, sequence: Sequence) -> tuple[State, jax.Array]:
        """Runs the sequence.

        Returns:
          `(state, outputs)`: the state after the last step, and the outputs, those of one step with time put in as axis
          `time_axis`.
        """


def guarded(
    step: Callable[[State], tuple[State, jax.Array]],
    state: State,
    reset_state: State,
    valid: jax.Array | None,
    reset: jax.Array | None,
) -> tuple[State, jax.Array]:
    """One step, `state -> (state, output)`, under a mask and resets, `[*batch]` each or None."""
    after, output = step(state if reset is None else select(reset, reset_state, state))
    if valid is None:
        return after, output
    return select(valid, (after, output), (state, jnp.zeros_like(output)))


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`jnp.where` over trees: `condition` is `[*batch]`, the leaves of `yes` and `no` are `[*batch, ...]`."""

    def leaf(yes: jax.Array, no: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (yes.ndim - condition.ndim)), yes, no)

    return jax.tree.map(leaf, yes, no)


def symbolic(*sizes: Any) -> str | None:
    """Which of some sizes are symbolic, as half a sentence; None if all are known."""
    unknown = [str(size) for size in sizes if not isinstance(size, int)]
    return f"it needs to know the size {' and '.join(unknown)}" if unknown else None
