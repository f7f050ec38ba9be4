"""One cell over the sequence."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn._last import last_valid_step
from flaxrnn._scan import scan
from flaxrnn.axes import Axes
from flaxrnn.carry import shard_batch_like
from flaxrnn.cells.base import Cell, check_cell, check_options
from flaxrnn.layers.base import Layer, LayerCell, ScanOptions, check_scan_options
from flaxrnn.strategies.base import select


@dataclasses.dataclass(frozen=True)
class RNN(Layer):
    """A cell run over the sequence.

    Its parameters and its state are the cell's own.

    Attributes:
      cell: the cell.
      reverse: whether to read from the end. The outputs stay in the order of the inputs.
      include_initial: whether the hidden state before the first step is among the outputs too, which are then
        `[*batch, time + 1, output_size]`: it comes first, or with `reverse` right behind the last valid step.

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
        check_cell(self.cell)
        check_options(self)
        if self.include_initial and not hasattr(jax.eval_shape(self.cell.initial_state), "hidden"):
            raise ValueError(f"include_initial=True needs a state with a field 'hidden', which {self.cell} has not")

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def stochastic(self) -> bool:
        return self.cell.stochastic

    def cells(self, input_size: int) -> list[LayerCell]:
        return [LayerCell(self.cell, input_size, reverse=self.reverse)]

    def check_streams(self) -> None:
        if self.reverse:
            raise ValueError("a layer with reverse=True cannot stream: it begins with the last step of the sequence")
        if self.include_initial:
            raise ValueError("a layer with include_initial=True cannot stream: each chunk would have a state too many")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        return self.cell.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        return self.cell.initial_state(batch_shape, dtype)

    def begin(self, params: dict[str, Any], batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        return self.cell.begin(params, batch_shape, dtype)

    def apply(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, jax.Array]:
        check_scan_options(options)
        state, outputs = scan(
            self.cell, params, inputs, initial_state=initial_state, reverse=self.reverse, key=key, **options
        )
        if self.include_initial:
            before = initial_state
            if before is None:
                positions = Axes(self.feature_axes).one_step(inputs.shape)[:-1]
                before = self.cell.begin(params, positions, outputs.dtype)
            outputs = self._insert(before.hidden, outputs, options.get("lengths"), options.get("mask"))
        return state, outputs

    def _insert(
        self, hidden: jax.Array, outputs: jax.Array, lengths: jax.Array | None, mask: jax.Array | None
    ) -> jax.Array:
        """Puts the hidden state before the first step among the outputs, where the reading begins."""
        axes = Axes(self.feature_axes)
        time_axis, steps = axes.time(outputs.shape), axes.steps(outputs.shape)
        hidden = jnp.expand_dims(hidden, time_axis).astype(outputs.dtype)
        hidden = shard_batch_like(outputs, slice(0, time_axis), hidden)
        if not self.reverse:
            return jnp.concatenate([hidden, outputs], axis=time_axis)
        place = last_valid_step(steps, lengths, mask) + 1
        is_place = jnp.arange(steps[-1] + 1) == place[..., None]
        longer = jnp.concatenate([outputs, jnp.zeros_like(hidden)], axis=time_axis)
        return select(is_place, hidden, longer)
