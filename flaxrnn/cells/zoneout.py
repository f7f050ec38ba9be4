"""Zoneout: at each step some features of the state keep their old value."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn.carry import shard_batch_like
from flaxrnn.cells.base import Cell, Params, State, check_rate
from flaxrnn.cells.products import Product


class ZoneoutInputs(NamedTuple):
    """What a step takes in training: the input, and for each field of the state which features stay what they were."""

    inputs: Any
    stays: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, repr=False)
class Zoneout(Cell):
    """A cell whose state, feature by feature and step by step, at random stays what it was.

    It is drawn from the `key` of `flaxrnn.scan` or of a layer, for each step, feature and member of the batch on its
    own. Without a key, in evaluation, each feature takes the mean of the two: `rate * old + (1 - rate) * new`.

    Its parameters and its state are those of `cell`, and the output is the new hidden state.

    Attributes:
      cell: any cell whose state has a field `hidden` that is its output.
      hidden_rate: the probability with which a feature of the hidden state stays.
      cell_rate: the probability with which a feature of an LSTM's memory stays.

    Example:
      >>> import jax, flaxrnn
      >>> from flaxrnn.cells import LSTM, Zoneout
      >>> cell = Zoneout(LSTM(4), hidden_rate=0.05, cell_rate=0.5)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> inputs = jax.numpy.ones([2, 5, 3])
      >>> _, in_training = flaxrnn.scan(cell, params, inputs, key=jax.random.key(1))
      >>> _, in_evaluation = flaxrnn.scan(cell, params, inputs)

    References:
      Krueger et al., `Zoneout: regularizing RNNs by randomly preserving hidden activations
      <https://arxiv.org/abs/1606.01305>`_, 2017.
    """

    cell: Cell
    hidden_rate: float = 0.0
    cell_rate: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise TypeError(f"Zoneout: cell is a {type(self.cell).__name__}: pass a cell, such as LSTM(128)")
        fields = getattr(jax.eval_shape(self.cell.initial_state), "_fields", ())
        for name in ("hidden_rate", "cell_rate"):
            check_rate(self, name)
            field = name.removesuffix("_rate")
            if getattr(self, name) and field not in fields:
                raise ValueError(f"Zoneout: {name} is given, but the state of {self.cell!r} has no field {field!r}")

    @property
    def rates(self) -> dict[str, float]:
        """The rate of each field of the state that has one."""
        rates = {"hidden": self.hidden_rate, "cell": self.cell_rate}
        return {field: rate for field, rate in rates.items() if rate}

    @property
    def gates(self) -> tuple[str, ...]:
        return self.cell.gates

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def feature_axes(self) -> int:
        return self.cell.feature_axes

    @property
    def stochastic(self) -> bool:
        return bool(self.rates) or self.cell.stochastic

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.cell.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def check_features(self, params: Params, input_size: int) -> None:
        self.cell.check_features(params, input_size)

    def begin(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.begin(params, batch_shape, dtype)

    def perturb(self, key: jax.Array, params: Params, inputs: jax.Array) -> tuple[Params, Any]:
        inner_key, *keys = jax.random.split(key, 1 + len(self.rates))
        params, inner_inputs = self.cell.perturb(inner_key, params, inputs)
        state = jax.eval_shape(lambda: self.cell.initial_state(inputs.shape[1:-1]))
        stays = {
            field: jax.random.bernoulli(field_key, rate, (inputs.shape[0], *getattr(state, field).shape))
            for field_key, (field, rate) in zip(keys, self.rates.items(), strict=True)
        }
        return params, ZoneoutInputs(inner_inputs, shard_batch_like(inputs, slice(0, -1), stays))

    def project(self, params: Params, inputs: Any, product: Product) -> tuple[Any, dict[str, jax.Array] | None]:
        inputs, stays = inputs if isinstance(inputs, ZoneoutInputs) else (inputs, None)
        return self.cell.project(params, inputs, product), stays

    def recur(self, params: Params, state: State, projected: Any, product: Product) -> tuple[State, jax.Array]:
        inner_projected, stays = projected
        new_state, output = self.cell.recur(params, state, inner_projected, product)
        for field, rate in self.rates.items():
            old, new = getattr(state, field), getattr(new_state, field)
            mixed = rate * old + (1 - rate) * new if stays is None else jnp.where(stays[field], old, new)
            new_state = new_state._replace(**{field: mixed})
        return new_state, new_state.hidden if self.hidden_rate else output
