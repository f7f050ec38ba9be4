"""Layers: from sequences to sequences. One cell, two cells in opposite directions, or layers on top of each other."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import checks
from flaxrnn.cells.base import Cell
from flaxrnn.scan import scan

MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mul": lambda forward, backward: forward * backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
}
"""How the outputs of two directions become one."""


class ScanOptions(TypedDict, total=False):
    """What every layer passes on to `flaxrnn.scan`."""

    lengths: jax.Array | None
    mask: jax.Array | None
    resets: jax.Array | None
    strategy: str


@dataclasses.dataclass(frozen=True)
class Layer(abc.ABC):
    """From sequences `[*batch, time, features]` to sequences `[*batch, time, output_size]`.

    A layer is a frozen dataclass like a cell: it holds no array and can be a static argument of `jax.jit`.
    """

    @property
    @abc.abstractmethod
    def output_size(self) -> int | tuple[int, int]:
        """How many features an output has; a pair for a pair of outputs."""

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        """Draws the parameters for inputs of `input_size` features."""

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over `inputs`.

        Args:
          params: what `init` gave.
          inputs: `[*batch, time, features]`.
          initial_state: the state before the first step, as `initial_state()` gives it.
          **options: as in `flaxrnn.scan`: `lengths` `[*batch]`, how many steps of each sequence are valid; `mask`
            `[*batch, time]`, False at the steps to leave out; `resets` `[*batch, time]`, True at the first step of
            each packed sequence; `strategy`, how the steps are run.

        Returns:
          `(state, outputs)`: the final state, and `[*batch, time, output_size]`.
        """


@dataclasses.dataclass(frozen=True)
class RNN(Layer):
    """A cell run over the sequence.

    Its parameters and its state are the cell's own.

    Attributes:
      cell: the cell.
      reverse: whether to read from the end. The outputs stay in the order of the inputs.

    Example:
      >>> import jax, flaxrnn
      >>> layer = flaxrnn.RNN(flaxrnn.cells.GRU(4))
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> state, outputs = layer.apply(params, jax.numpy.ones([2, 5, 3]))
      >>> state.hidden.shape, outputs.shape
      ((2, 4), (2, 5, 4))
    """

    cell: Cell
    reverse: bool = False

    def __post_init__(self) -> None:
        checks.check_cell(self.cell)

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        return self.cell.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        return self.cell.initial_state(batch_shape, dtype)

    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, jax.Array]:
        return scan(self.cell, params, inputs, initial_state=initial_state, reverse=self.reverse, **options)


@dataclasses.dataclass(frozen=True)
class Bidirectional(Layer):
    """Two cells over the same sequence, one from each end. They may differ in kind and in size.

    The parameters are `{"forward": ..., "backward": ...}`. The state is the pair of final states, so `state[1].hidden`
    is what the backward cell knows after it has read the first step.

    Attributes:
      forward: the cell that reads from the beginning.
      backward: the cell that reads from the end, each sequence from its own last valid step.
      merge: how the two outputs of a step become one: "concat", "sum", "mul", "mean", or None for the pair.

    Example:
      >>> import jax, flaxrnn
      >>> layer = flaxrnn.Bidirectional(flaxrnn.cells.LSTM(4), flaxrnn.cells.GRU(6))
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> state, outputs = layer.apply(params, jax.numpy.ones([2, 5, 3]))
      >>> state[0].hidden.shape, state[1].hidden.shape, outputs.shape
      ((2, 4), (2, 6), (2, 5, 10))

    References:
      Schuster & Paliwal, `Bidirectional recurrent neural networks <https://doi.org/10.1109/78.650093>`_, 1997.

    How it differs from other frameworks:
      At padded steps both outputs are zero. "mean" is Keras's "ave".
    """

    forward: Cell
    backward: Cell
    merge: str | None = "concat"

    def __post_init__(self) -> None:
        checks.check_cell(self.forward)
        checks.check_cell(self.backward)
        if self.merge is not None and self.merge not in MERGES:
            raise ValueError(f"there is no merge {self.merge!r}: pass one of {', '.join(MERGES)}, or None for a pair")
        sizes = self.forward.output_size, self.backward.output_size
        if self.merge in ("sum", "mul", "mean") and sizes[0] != sizes[1]:
            raise ValueError(
                f"merge={self.merge!r} needs outputs of one size, but the forward cell has {sizes[0]} features and the "
                f"backward cell {sizes[1]}: make them the same, or pass merge='concat'"
            )

    @property
    def output_size(self) -> int | tuple[int, int]:
        forward, backward = self.forward.output_size, self.backward.output_size
        if self.merge is None:
            return forward, backward
        return forward + backward if self.merge == "concat" else forward

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        forward_key, backward_key = jax.random.split(key)
        return {
            "forward": self.forward.init(forward_key, input_size, dtype),
            "backward": self.backward.init(backward_key, input_size, dtype),
        }

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[Any, Any]:
        return self.forward.initial_state(batch_shape, dtype), self.backward.initial_state(batch_shape, dtype)

    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[tuple[Any, Any], Any]:
        checks.check_states(initial_state, 2)
        forward_state, backward_state = initial_state or (None, None)
        forward_state, forward = scan(self.forward, params["forward"], inputs, initial_state=forward_state, **options)
        backward_state, backward = scan(
            self.backward, params["backward"], inputs, initial_state=backward_state, reverse=True, **options
        )
        outputs = (forward, backward) if self.merge is None else MERGES[self.merge](forward, backward)
        return (forward_state, backward_state), outputs


@dataclasses.dataclass(frozen=True)
class Stack(Layer):
    """Layers on top of each other: each reads the outputs of the one below.

    The parameters are `{"layer_0": ..., "layer_1": ...}`, from the bottom. The state is the tuple of the
    layers' states.

    Attributes:
      layers: the layers, from the bottom; any sequence of them becomes a tuple.

    Example:
      >>> import jax, flaxrnn
      >>> layer = flaxrnn.Stack([flaxrnn.RNN(flaxrnn.cells.GRU(4)), flaxrnn.RNN(flaxrnn.cells.LSTM(6))])
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> state, outputs = layer.apply(params, jax.numpy.ones([2, 5, 3]))
      >>> state[0].hidden.shape, state[1].hidden.shape, outputs.shape
      ((2, 4), (2, 6), (2, 5, 6))
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("Stack has no layers: pass at least one")
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Cell):
                raise TypeError(f"layer {number} of Stack is the cell {layer!r}: pass RNN({layer!r})")
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {number} of Stack is {checks.describe(layer)}: pass layers, such as RNN(cell)")
            if number < len(self.layers) - 1 and isinstance(layer.output_size, tuple):
                raise ValueError(f"layer {number} of Stack has a pair of outputs (merge=None): only the last one may")

    @property
    def output_size(self) -> int | tuple[int, int]:
        return self.layers[-1].output_size

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        params = {}
        size: Any = input_size
        keys = jax.random.split(key, len(self.layers))
        for number, layer in enumerate(self.layers):
            params[f"layer_{number}"] = layer.init(keys[number], size, dtype)
            size = layer.output_size
        return params

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[Any, ...]:
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[tuple[Any, ...], Any]:
        checks.check_states(initial_state, len(self.layers))
        states = initial_state or (None,) * len(self.layers)
        final_states = []
        for number, layer in enumerate(self.layers):
            state, inputs = layer.apply(params[f"layer_{number}"], inputs, initial_state=states[number], **options)
            final_states.append(state)
        return tuple(final_states), inputs
