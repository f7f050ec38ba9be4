"""What a layer is: from sequences to sequences."""

import abc
import dataclasses
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import checks
from flaxrnn.cells.base import Cell
from flaxrnn.strategies import Strategy


class ScanOptions(TypedDict, total=False):
    """What every layer passes on to `flaxrnn.scan`."""

    lengths: jax.Array | None
    mask: jax.Array | None
    resets: jax.Array | None
    strategy: str | Strategy
    check_at_run_time: bool


class LayerCell(NamedTuple):
    """A cell of a layer.

    Attributes:
      cell: the cell.
      input_size: how many features its inputs have.
      path: where its parameters are among the layer's: the keys from the outside in.
      reverse: whether it reads from the end.
    """

    cell: Cell
    input_size: int
    path: tuple[str, ...] = ()
    reverse: bool = False


@dataclasses.dataclass(frozen=True)
class Layer(abc.ABC):
    """From sequences `[*batch, time, features]` to sequences `[*batch, time, output_size]`.

    A layer is a frozen dataclass like a cell: it holds no array and can be a static argument of `jax.jit`.

    Example: what all layers have in common.

      >>> import jax, flaxrnn
      >>> for layer in (flaxrnn.RNN(flaxrnn.cells.GRU(4)), flaxrnn.Stack([flaxrnn.RNN(flaxrnn.cells.LSTM(4))])):
      ...     params = layer.init(jax.random.key(0), input_size=3)
      ...     state, outputs = layer.apply(params, jax.numpy.ones([2, 5, 3]), initial_state=layer.initial_state((2,)))
      ...     print(outputs.shape)
      (2, 5, 4)
      (2, 5, 4)
    """

    @property
    @abc.abstractmethod
    def output_size(self) -> int | tuple[int, int]:
        """How many features an output has; a pair for a pair of outputs."""

    @property
    def feature_axes(self) -> int:
        """How many axes the features of one step have; see `flaxrnn.cells.Cell.feature_axes`."""
        return max((part.cell.feature_axes for part in self.cells(1)), default=1)

    @property
    def include_initial(self) -> bool:
        """Whether the outputs are one step longer than the inputs; see `RNN`."""
        return False

    @property
    @abc.abstractmethod
    def stochastic(self) -> bool:
        """Whether the layer has dropout or zoneout, and so does something else where it is given a key."""

    @abc.abstractmethod
    def cells(self, input_size: int) -> list[LayerCell]:
        """The cells that the layer runs, from the bottom, for inputs of `input_size` features."""

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
        """Draws the parameters for inputs of `input_size` features."""

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def begin(self, params: dict[str, Any], batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        """The state that `apply` begins with by default: `initial_state`, or what was learned in its place."""

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
          initial_state: the state before the first step; by default what `begin` gives.
          key: where dropout and zoneout come from, in training; None turns them off, for evaluation.
          **options: as in `flaxrnn.scan`: `lengths` `[*batch]`, how many steps of each sequence are valid; `mask`
            `[*batch, time]`, False at the steps to leave out; `resets` `[*batch, time]`, True at the first step of
            each packed sequence; `strategy`, how the steps are run; `check_at_run_time`.

        Returns:
          `(state, outputs)`: the final state, and `[*batch, time, output_size]`.
        """

    def stream(
        self,
        params: dict[str, Any],
        state: Any,
        inputs: jax.Array,
        *,
        key: jax.Array | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over the next chunk of a sequence that comes bit by bit.

        Chunks of any size, one step included, give what the whole sequence gives without a key: under the plain
        strategy to the last bit, but for a residual `Stack` under `jit`, where XLA may round a product and the sum
        after it once. `lengths` are those of the chunk.

        Args:
          params: what `init` gave.
          state: the state that the chunk before gave; None for the first chunk.
          inputs: `[*batch, time, features]`, the chunk.
          key: as in `apply`; each chunk draws its own masks.
          **options: as in `apply`.

        Returns:
          `(state, outputs)`, as `apply`; the state is for the next chunk.

        Raises:
          ValueError: if the layer reads backwards anywhere, since then its first output needs the last input, or has
            `include_initial`.

        Example:
          >>> import jax, flaxrnn
          >>> layer = flaxrnn.RNN(flaxrnn.cells.GRU(4))
          >>> params = layer.init(jax.random.key(0), input_size=3)
          >>> state = None
          >>> for chunk in jax.random.normal(jax.random.key(1), [3, 2, 1, 3]):  # one step at a time
          ...     state, outputs = layer.stream(params, state, chunk)
          >>> outputs.shape
          (2, 1, 4)
        """
        self.check_streams()
        return self.apply(params, inputs, initial_state=state, key=key, **options)

    @abc.abstractmethod
    def check_streams(self) -> None:
        """Raises an error if the layer cannot be given a sequence chunk by chunk."""


def check_scan_options(options: ScanOptions) -> None:
    """Raises an error if a layer was given an option that layers do not have."""
    for name in options:
        if name not in ScanOptions.__annotations__:
            known = ", ".join(sorted(ScanOptions.__annotations__))
            raise TypeError(f"a layer has no option {name!r}: it takes initial_state, key, {known}")


def split_key(key: jax.Array | None, number: int | None = None) -> tuple[jax.Array | None, jax.Array | None]:
    """Two keys out of one, or, of many that are numbered, out of this one; no keys out of None."""
    if key is None:
        return None, None
    checks.check_key(key)
    first, second = jax.random.split(key if number is None else jax.random.fold_in(key, number))
    return first, second
