"""Layers on top of each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import checks
from flaxrnn.axes import Axes
from flaxrnn.cells.base import Cell, check_options, check_rate
from flaxrnn.layers.base import Layer, LayerCell, ScanOptions, split_key


@dataclasses.dataclass(frozen=True)
class Stack(Layer):
    """Layers on top of each other: each reads the outputs of the one below.

    The parameters are `{"layer_0": ..., "layer_1": ...}`, from the bottom. The state is the tuple of the
    layers' states.

    Attributes:
      layers: the layers, from the bottom; any sequence of them becomes a tuple.
      dropout: how many of the features between two layers are dropped, at each step anew. What is kept is scaled up.
        It is drawn from the `key` of `apply`, and off without one.
      residual: whether each layer but the first adds its input, before dropout, to its output. The layers must be of
        one size.

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
        if not isinstance(self.layers, Sequence):
            raise TypeError(f"Stack: layers is {self.layers!r}: pass a list of layers, such as [RNN(cell), RNN(cell)]")
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
            if layer.include_initial and (number < len(self.layers) - 1 or (self.residual and number)):
                raise ValueError(
                    f"layer {number} of Stack has include_initial=True: only the last one may, without residual=True"
                )
            if layer.feature_axes != self.layers[0].feature_axes:
                raise ValueError(
                    f"layer {number} of Stack takes {Axes(layer.feature_axes)}, but those below it "
                    f"{Axes(self.layers[0].feature_axes)}: put a layer of your own between them"
                )
        if self.residual and len({layer.output_size for layer in self.layers}) > 1:
            sizes = ", ".join(str(layer.output_size) for layer in self.layers)
            raise ValueError(f"residual=True needs layers of one size, but they have {sizes} features")
        check_rate(self, "dropout")
        check_options(self)

    @property
    def output_size(self) -> int | tuple[int, int]:
        return self.layers[-1].output_size

    @property
    def include_initial(self) -> bool:
        return self.layers[-1].include_initial

    @property
    def stochastic(self) -> bool:
        return bool(self.dropout) or any(layer.stochastic for layer in self.layers)

    def cells(self, input_size: int) -> list[LayerCell]:
        found: list[LayerCell] = []
        size: Any = input_size
        for number, layer in enumerate(self.layers):
            found += [part._replace(path=(f"layer_{number}", *part.path)) for part in layer.cells(size)]
            size = layer.output_size
        return found

    def check_streams(self) -> None:
        for layer in self.layers:
            layer.check_streams()

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        params = {}
        size: Any = input_size
        checks.check_key(key)
        keys = jax.random.split(key, len(self.layers))
        for number, layer in enumerate(self.layers):
            params[f"layer_{number}"] = layer.init(keys[number], size, dtype)
            size = layer.output_size
        return params

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[Any, ...]:
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    def begin(
        self, params: dict[str, Any], batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[Any, ...]:
        return tuple(
            layer.begin(params[f"layer_{number}"], batch_shape, dtype) for number, layer in enumerate(self.layers)
        )

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
            layer_key, dropout_key = split_key(key, number)
            below, own_params = outputs, params[f"layer_{number}"]
            seen = drop(dropout_key, below, self.dropout) if number else below
            try:
                state, outputs = layer.apply(own_params, seen, initial_state=states[number], key=layer_key, **options)
            except (TypeError, ValueError) as error:
                error.add_note(f"This was in layer_{number} of a Stack, {layer}.")
                raise
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
