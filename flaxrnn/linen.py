"""The layers as modules of `flax.linen`."""

from collections.abc import Mapping
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn import layers
from flaxrnn.axes import Axes
from flaxrnn.cells.base import Cell
from flaxrnn.checks import check_inputs, init_shapes
from flaxrnn.layers import Layer, ScanOptions
from flaxrnn.module import as_layer, cast, check_partitioning
from flaxrnn.strategies import Strategy


class Recurrent(nn.Module, kw_only=True):
    """What the modules below have in common: they hold the parameters of a layer, and call it.

    The parameters are the layer's own, under the module's own scope: `kernel`, `recurrent_kernel` and `bias` for an
    `RNN`, and the like.

    Attributes:
      dtype: what is computed in; by default the dtype that inputs and parameters have together.
      param_dtype: the dtype of the parameters.
      partitioning: names of mesh axes for the axes of parameters, by the parameter's name, such as
        `{"kernel": (None, "model")}`: these become `nn.Partitioned`.
      deterministic: what a call does that does not say; a field, so that `nn.remat` need not pass it on.
      strategy: how the steps are run, likewise.

    Example: the modules made of it.

      >>> import flaxrnn.linen
      >>> [module.__name__ for module in flaxrnn.linen.Recurrent.__subclasses__()]
      ['RNN', 'Bidirectional', 'Stack']
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    partitioning: Mapping[str, tuple[str | None, ...]] | None = None
    deterministic: bool = True
    strategy: str | Strategy = "auto"

    @property
    def layer(self) -> Layer:
        """The functional layer that this module wraps."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        deterministic: bool | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over `inputs`.

        Args:
          inputs: `[*batch, time, features]`.
          initial_state: the state before the first step; by default the layer's own.
          deterministic: whether to leave dropout and zoneout off, for evaluation; by default as the field says. In
            training they draw from the "dropout" random numbers of `apply`, and only where the layer has any.
          **options: `lengths`, `mask`, `resets`, `strategy`, `check_at_run_time`, as in `flaxrnn.scan`.

        Returns:
          `(state, outputs)`: the final state, and `[*batch, time, features]`.
        """
        layer = self.layer
        check_inputs(inputs, Axes(layer.feature_axes))
        params = self._params(layer, inputs.shape[-1])
        if deterministic is None:
            deterministic = self.deterministic
        key = None if deterministic or not layer.stochastic else self.make_rng("dropout")
        inputs, params, initial_state = cast(layer, self.dtype, inputs, params, initial_state)
        options.setdefault("strategy", self.strategy)
        return layer.apply(params, inputs, initial_state=initial_state, key=key, **options)

    def _params(self, layer: Layer, input_size: int) -> dict[str, Any]:
        """The layer's parameters, drawn if the module is being initialised; the layer itself checks their shapes."""
        names = tuple(init_shapes(layer, input_size))
        if all(self.has_variable("params", name) for name in names):
            return {name: nn.meta.unbox(self.get_variable("params", name)) for name in names}
        drawn = self._box(layer.init(self.make_rng("params"), input_size, self.param_dtype))
        return {name: self.param(name, lambda _, part: part, drawn[name]) for name in names}

    def _box(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the names of mesh axes that `partitioning` gives them."""
        check_partitioning(self.partitioning, params)

        def box(path: tuple[Any, ...], value: jax.Array) -> Any:
            axes = (self.partitioning or {}).get(path[-1].key)
            return value if axes is None else nn.Partitioned(value, axes)

        return jax.tree_util.tree_map_with_path(box, params)


class RNN(Recurrent):
    """A cell, or any layer, as a module.

    Attributes:
      cell: a cell to be run over the sequence, or a layer.
      reverse: whether the cell reads from the end. The outputs stay in the order of the inputs.
      include_initial: whether the hidden state before the first step is among the outputs; see `flaxrnn.RNN`.

    Example: in place of `nn.RNN(nn.OptimizedLSTMCell(4))`, which returns no state.

      >>> import flax.linen as nn, jax, flaxrnn.linen
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, inputs):
      ...         state, outputs = flaxrnn.linen.RNN(flaxrnn.cells.LSTM(4))(inputs)
      ...         return nn.Dense(10)(state.hidden)
      >>> inputs = jax.numpy.ones([2, 5, 3])
      >>> variables = Model().init(jax.random.key(0), inputs)
      >>> sorted(variables["params"]["RNN_0"])
      ['bias', 'kernel', 'recurrent_kernel']
      >>> Model().apply(variables, inputs).shape
      (2, 10)
    """

    cell: Cell | Layer
    reverse: bool = False
    include_initial: bool = False

    @property
    def layer(self) -> Layer:
        return as_layer(self.cell, self.reverse, self.include_initial)


class Bidirectional(Recurrent):
    """Two cells over the same sequence, one from each end, as a module; see `flaxrnn.Bidirectional`.

    Attributes:
      forward: the cell that reads from the beginning.
      backward: the cell that reads from the end.
      merge: "concat", "sum", "mul", "mean", or None for a pair of outputs.

    Example:
      >>> import jax, flaxrnn.linen
      >>> from flaxrnn.cells import GRU, LSTM
      >>> module = flaxrnn.linen.Bidirectional(LSTM(4), GRU(6))
      >>> (state, outputs), variables = module.init_with_output(jax.random.key(0), jax.numpy.ones([2, 5, 3]))
      >>> outputs.shape, sorted(variables["params"])
      ((2, 5, 10), ['backward', 'forward'])
    """

    forward: Cell
    backward: Cell
    merge: str | None = "concat"

    @property
    def layer(self) -> Layer:
        return layers.Bidirectional(self.forward, self.backward, self.merge)


class Stack(Recurrent):
    """Layers on top of each other, as a module; see `flaxrnn.Stack`.

    Attributes:
      layers: the layers, from the bottom; a cell stands for `flaxrnn.RNN(cell)`.
      dropout: how many of the features between two layers are dropped in training.
      residual: whether each layer but the first adds its input to its output.

    Example:
      >>> import jax, flaxrnn.linen
      >>> from flaxrnn.cells import GRU
      >>> module = flaxrnn.linen.Stack([GRU(4), GRU(4)], dropout=0.5)
      >>> inputs = jax.numpy.ones([2, 5, 3])
      >>> variables = module.init(jax.random.key(0), inputs)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> state, outputs = module.apply(variables, inputs, deterministic=False, rngs=rngs)
    """

    layers: tuple[Cell | Layer, ...]
    dropout: float = 0.0
    residual: bool = False

    @property
    def layer(self) -> Layer:
        return layers.Stack([as_layer(layer) for layer in self.layers], self.dropout, self.residual)
