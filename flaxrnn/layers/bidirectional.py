"""Two cells over the sequence, in opposite directions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import checks
from flaxrnn._scan import scan
from flaxrnn.axes import Axes
from flaxrnn.cells.base import Cell, check_cell
from flaxrnn.layers.base import Layer, LayerCell, ScanOptions, check_scan_options, split_key

MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mul": lambda forward, backward: forward * backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
}
"""How the outputs of two directions become one."""


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
        check_cell(self.forward)
        check_cell(self.backward)
        if self.merge is not None and (not isinstance(self.merge, str) or self.merge not in MERGES):
            raise ValueError(f"there is no merge {self.merge!r}: pass one of {', '.join(MERGES)}, or None for a pair")
        axes = self.forward.feature_axes, self.backward.feature_axes
        if axes[0] != axes[1]:
            raise ValueError(
                f"the forward cell takes {Axes(axes[0])}, but the backward cell {Axes(axes[1])}: pass two cells for "
                "inputs of the same kind"
            )
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

    def cells(self, input_size: int) -> list[LayerCell]:
        forward = LayerCell(self.forward, input_size, ("forward",))
        return [forward, LayerCell(self.backward, input_size, ("backward",), reverse=True)]

    def check_streams(self) -> None:
        raise ValueError("a Bidirectional layer cannot stream: its backward cell begins with the last step")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        checks.check_key(key)
        forward_key, backward_key = jax.random.split(key)
        return {
            "forward": self.forward.init(forward_key, input_size, dtype),
            "backward": self.backward.init(backward_key, input_size, dtype),
        }

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[Any, Any]:
        return self.forward.initial_state(batch_shape, dtype), self.backward.initial_state(batch_shape, dtype)

    def begin(
        self, params: dict[str, Any], batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[Any, Any]:
        forward = self.forward.begin(params["forward"], batch_shape, dtype)
        return forward, self.backward.begin(params["backward"], batch_shape, dtype)

    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[tuple[Any, Any], Any]:
        check_scan_options(options)
        checks.check_states(initial_state, 2)
        checks.check_entries(params, ("forward", "backward"), "Bidirectional")
        states = initial_state or (None, None)
        keys = split_key(key)
        forward_state, forward = scan(
            self.forward, params["forward"], inputs, initial_state=states[0], key=keys[0], **options
        )
        backward_state, backward = scan(
            self.backward, params["backward"], inputs, initial_state=states[1], key=keys[1], reverse=True, **options
        )
        outputs = (forward, backward) if self.merge is None else MERGES[self.merge](forward, backward)
        return (forward_state, backward_state), outputs
