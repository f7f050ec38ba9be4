"""Layers: from sequences to sequences. One cell, two cells in opposite directions, or layers on top of each other."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import checks
from flaxrnn.cells.base import Cell, check_rate
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

    @property
    @abc.abstractmethod
    def stochastic(self) -> bool:
        """Whether the layer has dropout or zoneout, and so does something else where it is given a key."""

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
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over `inputs`.

        Args:
          params: what `init` gave.
          inputs: `[*batch, time, features]`.
          initial_state: the state before the first step, as `initial_state()` gives it.
          key: where dropout and zoneout come from, in training; None turns them off, for evaluation.
          **options: as in `flaxrnn.scan`: `lengths` `[*batch]`, how many steps of each sequence are valid; `mask`
            `[*batch, time]`, False at the steps to leave out; `resets` `[*batch, time]`, True at the first step of
            each packed sequence; `strategy`, how the steps are run.

        Returns:
          `(state, outputs)`: the final state, and `[*batch, time, output_size]`.
        """

    def stream(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        state: Any = None,
        *,
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over the next chunk of a sequence that comes bit by bit.

        Chunks of any size, one step included, give what the whole sequence gives: under the plain strategy to the last
        bit, but for a residual `Stack` under `jit`, where XLA may round a product and the sum after it once.

        Args:
          params: what `init` gave.
          inputs: `[*batch, time, features]`, the chunk.
          state: the state that the chunk before gave; None for the first chunk.
          key: as in `apply`.
          **options: as in `apply`.

        Returns:
          `(state, outputs)`, as `apply`; the state is for the next chunk.

        Raises:
          ValueError: if the layer reads backwards anywhere: then its first output needs the last input.

        Example:
          >>> import jax, flaxrnn
          >>> layer = flaxrnn.RNN(flaxrnn.cells.GRU(4))
          >>> params = layer.init(jax.random.key(0), input_size=3)
          >>> state = None
          >>> for chunk in jax.random.normal(jax.random.key(1), [3, 2, 1, 3]):  # one step at a time
          ...     state, outputs = layer.stream(params, chunk, state)
          >>> outputs.shape
          (2, 1, 4)
        """
        self.check_streams()
        return self.apply(params, inputs, initial_state=state, key=key, **options)

    @abc.abstractmethod
    def check_streams(self) -> None:
        """Raises an error if the layer reads backwards, and so cannot be given a sequence chunk by chunk."""


@dataclasses.dataclass(frozen=True)
class RNN(Layer):
    """A cell run over the sequence.

    Its parameters and its state are the cell's own.

    Attributes:
      cell: the cell.
      reverse: whether to read from the end. The outputs stay in the order of the inputs.
      include_initial: whether the hidden state before the first step is among the outputs too: they are then
        `[*batch, 1 + time, output_size]`, or with `reverse`, where it comes last, `[*batch, time + 1, output_size]`.

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
    include_initial: bool = False

    def __post_init__(self) -> None:
        checks.check_cell(self.cell)
        if self.include_initial and not hasattr(jax.eval_shape(self.cell.initial_state), "hidden"):
            raise ValueError(f"include_initial=True needs a state with a field 'hidden', which {self.cell} has not")

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def stochastic(self) -> bool:
        return self.cell.stochastic

    def check_streams(self) -> None:
        if self.reverse:
            raise ValueError("a layer with reverse=True cannot stream: it begins with the last step of the sequence")

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
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, jax.Array]:
        state, outputs = scan(
            self.cell, params, inputs, initial_state=initial_state, reverse=self.reverse, key=key, **options
        )
        if self.include_initial:
            before = (
                self.cell.begin(params, inputs.shape[:-2], outputs.dtype) if initial_state is None else initial_state
            )
            first = before.hidden[..., None, :].astype(outputs.dtype)
            outputs = jnp.concatenate([outputs, first] if self.reverse else [first, outputs], axis=-2)
        return state, outputs


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

    @property
    def stochastic(self) -> bool:
        return self.forward.stochastic or self.backward.stochastic

    def check_streams(self) -> None:
        raise ValueError("a Bidirectional layer cannot stream: its backward cell begins with the last step")

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
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[tuple[Any, Any], Any]:
        checks.check_states(initial_state, 2)
        checks.check_entries(params, ("forward", "backward"), "Bidirectional")
        states = initial_state or (None, None)
        keys = (None, None) if key is None else jax.random.split(key)
        forward_state, forward = scan(
            self.forward, params["forward"], inputs, initial_state=states[0], key=keys[0], **options
        )
        backward_state, backward = scan(
            self.backward, params["backward"], inputs, initial_state=states[1], key=keys[1], reverse=True, **options
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
      dropout: how many of the features between two layers are dropped, at each step anew. What is kept is scaled up.
        It is drawn from the `key` of `apply`, and off without one.
      residual: whether each layer but the first adds its input to its output. The layers must be of one size.

    Example:
      >>> import jax, flaxrnn
      >>> layer = flaxrnn.Stack([flaxrnn.RNN(flaxrnn.cells.GRU(4)), flaxrnn.RNN(flaxrnn.cells.LSTM(6))])
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> state, outputs = layer.apply(params, jax.numpy.ones([2, 5, 3]))
      >>> state[0].hidden.shape, state[1].hidden.shape, outputs.shape
      ((2, 4), (2, 6), (2, 5, 6))

    References:
      Zaremba et al., `Recurrent neural network regularization <https://arxiv.org/abs/1409.2329>`_, 2014: dropout
      between the layers alone.
      Wu et al., `Google's neural machine translation system <https://arxiv.org/abs/1609.08144>`_, 2016, section 3.1:
      residual stacks.

    How it differs from other frameworks:
      As in torch's `num_layers` and `dropout`, there is no dropout after the last layer.
    """

    layers: Sequence[Layer]
    dropout: float = 0.0
    residual: bool = False

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
            if number < len(self.layers) - 1 and getattr(layer, "include_initial", False):
                raise ValueError(f"layer {number} of Stack has include_initial=True: only the last one may")
        if self.residual and len({layer.output_size for layer in self.layers}) > 1:
            sizes = ", ".join(str(layer.output_size) for layer in self.layers)
            raise ValueError(f"residual=True needs layers of one size, but they have {sizes} features")
        check_rate(self, "dropout")

    @property
    def output_size(self) -> int | tuple[int, int]:
        return self.layers[-1].output_size

    @property
    def stochastic(self) -> bool:
        return bool(self.dropout) or any(layer.stochastic for layer in self.layers)

    def check_streams(self) -> None:
        for layer in self.layers:
            layer.check_streams()

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
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[tuple[Any, ...], Any]:
        checks.check_states(initial_state, len(self.layers))
        checks.check_entries(params, [f"layer_{number}" for number in range(len(self.layers))], "Stack")
        states = initial_state or (None,) * len(self.layers)
        final_states: list[Any] = []
        outputs: Any = inputs
        for number, layer in enumerate(self.layers):
            layer_key, dropout_key = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, number))
            below = drop(dropout_key, outputs, self.dropout) if number else inputs
            own_params = params[f"layer_{number}"]
            state, outputs = layer.apply(own_params, below, initial_state=states[number], key=layer_key, **options)
            if self.residual and number:
                outputs = outputs + below
            final_states.append(state)
        return tuple(final_states), outputs


def drop(key: jax.Array | None, values: jax.Array, rate: float) -> jax.Array:
    """Dropout: each entry is zero with probability `rate`, and the others are scaled up; off without a key."""
    if key is None or not rate:
        return values
    kept = jax.random.bernoulli(key, 1 - rate, values.shape)
    return jnp.where(kept, values / (1 - rate), 0)
