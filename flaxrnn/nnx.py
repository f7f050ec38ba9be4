"""The layers as modules of `flax.nnx`."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxrnn import layers as functional
from flaxrnn.axes import Axes
from flaxrnn.cells.base import Cell
from flaxrnn.checks import check_inputs, describe
from flaxrnn.layers import Layer, ScanOptions
from flaxrnn.module import as_layer, cast, check_partitioning


class Recurrent(nnx.Module):
    """What the modules below have in common: they hold the parameters of a layer, and call it.

    The parameters are the layer's own, as attributes: `kernel`, `recurrent_kernel` and `bias` for an `RNN`, and so on.

    Args:
      layer: the functional layer.
      in_features: how many features the inputs have.
      dtype: what is computed in; by default the dtype that inputs and parameters have together.
      param_dtype: the dtype of the parameters.
      partitioning: names of mesh axes for the axes of parameters, by the parameter's name, such as
        `{"kernel": (None, "model")}`; nnx then shards it over the mesh of `jax.set_mesh`, and wants one.
      rngs: `params` for the parameters; `dropout` is kept for training, and only where the layer has any.

    Example: the modules made of it.

      >>> import flaxrnn.nnx
      >>> [module.__name__ for module in flaxrnn.nnx.Recurrent.__subclasses__()]
      ['RNN', 'Bidirectional', 'Stack']
    """

    def __init__(
        self,
        layer: Layer,
        in_features: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        partitioning: Mapping[str, tuple[str | None, ...]] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs is {describe(rngs)}: pass nnx.Rngs, such as nnx.Rngs(0)")
        self.layer = layer
        self.dtype = dtype
        self.deterministic = False
        params = layer.init(rngs.params(), in_features, param_dtype)
        check_partitioning(partitioning, params)
        self.names = tuple(params)
        if taken := [name for name in self.names if hasattr(self, name)]:
            raise ValueError(f"{layer} has parameters that nnx modules have other uses for: rename {', '.join(taken)}")
        for name, part in params.items():
            setattr(self, name, _as_params(part, name, partitioning or {}))
        self.rngs = rngs.dropout.fork() if layer.stochastic else None

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_state: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **options: Unpack[ScanOptions],
    ) -> tuple[Any, Any]:
        """Runs the layer over `inputs`.

        Args:
          inputs: `[*batch, time, features]`.
          initial_state: the state before the first step; by default the layer's own.
          deterministic: whether to leave dropout and zoneout off; by default as `module.train()` or `module.eval()`
            said last, and on if neither did.
          rngs: where dropout and zoneout come from, in place of those that the module was made with.
          **options: `lengths`, `mask`, `resets`, `strategy`, `check_at_run_time`, as in `flaxrnn.scan`.

        Returns:
          `(state, outputs)`: the final state, and `[*batch, time, features]`.
        """
        check_inputs(inputs, Axes(self.layer.feature_axes))
        if deterministic is None:
            deterministic = self.deterministic
        if rngs is not None and not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs is {describe(rngs)}: pass nnx.Rngs, such as nnx.Rngs(dropout=0)")
        stream = self.rngs if rngs is None else rngs.dropout
        key = None if deterministic or stream is None or not self.layer.stochastic else stream()
        params = {name: _as_arrays(getattr(self, name)) for name in self.names}
        inputs, params, initial_state = cast(self.layer, self.dtype, inputs, params, initial_state)
        return self.layer.apply(params, inputs, initial_state=initial_state, key=key, **options)


class RNN(Recurrent):
    """A cell, or any layer, as a module.

    Args:
      cell: a cell to be run over the sequence, or a layer.
      in_features: how many features the inputs have.
      reverse: whether the cell reads from the end. The outputs stay in the order of the inputs.
      include_initial: whether the hidden state before the first step is among the outputs; see `flaxrnn.RNN`.
      **options: `rngs`, `dtype`, `param_dtype`, `partitioning`, as in `Recurrent`.

    Example:
      >>> import jax, flaxrnn.nnx
      >>> from flax import nnx
      >>> rnn = flaxrnn.nnx.RNN(flaxrnn.cells.LSTM(4), 3, rngs=nnx.Rngs(0))
      >>> state, outputs = nnx.jit(lambda rnn, inputs: rnn(inputs))(rnn, jax.numpy.ones([2, 5, 3]))
      >>> outputs.shape
      (2, 5, 4)
    """

    def __init__(
        self,
        cell: Cell | Layer,
        in_features: int,
        *,
        reverse: bool = False,
        include_initial: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(as_layer(cell, reverse, include_initial), in_features, **options)


class Bidirectional(Recurrent):
    """Two cells over the same sequence, one from each end, as a module; see `flaxrnn.Bidirectional`.

    Args:
      forward: the cell that reads from the beginning.
      backward: the cell that reads from the end.
      in_features: how many features the inputs have.
      merge: "concat", "sum", "mul", "mean", or None for a pair of outputs.
      **options: `rngs`, `dtype`, `param_dtype`, `partitioning`, as in `Recurrent`.

    Example:
      >>> import jax, flaxrnn.nnx
      >>> from flax import nnx
      >>> from flaxrnn.cells import GRU, LSTM
      >>> rnn = flaxrnn.nnx.Bidirectional(LSTM(4), GRU(6), 3, rngs=nnx.Rngs(0))
      >>> (forward_state, backward_state), outputs = rnn(jax.numpy.ones([2, 5, 3]))
      >>> outputs.shape
      (2, 5, 10)
    """

    def __init__(
        self, forward: Cell, backward: Cell, in_features: int, *, merge: str | None = "concat", **options: Any
    ) -> None:
        super().__init__(functional.Bidirectional(forward, backward, merge), in_features, **options)


class Stack(Recurrent):
    """Layers on top of each other, as a module; see `flaxrnn.Stack`.

    Args:
      layers: the layers, from the bottom; a cell stands for `flaxrnn.RNN(cell)`.
      in_features: how many features the inputs have.
      dropout: how many of the features between two layers are dropped in training.
      residual: whether each layer but the first adds its input to its output.
      **options: `rngs`, `dtype`, `param_dtype`, `partitioning`, as in `Recurrent`.

    Example:
      >>> import jax, flaxrnn.nnx
      >>> from flax import nnx
      >>> from flaxrnn.cells import GRU
      >>> rnn = flaxrnn.nnx.Stack([GRU(4), GRU(4)], 3, dropout=0.5, rngs=nnx.Rngs(0, dropout=1))
      >>> rnn.eval()  # dropout is off
      >>> state, outputs = rnn(jax.numpy.ones([2, 5, 3]))
    """

    def __init__(
        self,
        layers: Sequence[Cell | Layer],
        in_features: int,
        *,
        dropout: float = 0.0,
        residual: bool = False,
        **options: Any,
    ) -> None:
        stack = functional.Stack([as_layer(layer) for layer in layers], dropout, residual)
        super().__init__(stack, in_features, **options)


def _as_params(part: Any, name: str, partitioning: Mapping[str, tuple[str | None, ...]]) -> Any:
    """A tree of arrays as a tree of `nnx.Param`."""
    if isinstance(part, dict):
        return nnx.Dict({key: _as_params(value, key, partitioning) for key, value in part.items()})
    return nnx.Param(part, out_sharding=partitioning[name]) if name in partitioning else nnx.Param(part)


def _as_arrays(part: Any) -> Any:
    """The arrays of a tree of `nnx.Param`."""
    if isinstance(part, nnx.Dict):
        return {key: _as_arrays(value) for key, value in part.items()}
    return part[...]
