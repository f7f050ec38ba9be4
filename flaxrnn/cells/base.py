"""What a cell is: one time step of a recurrent network, as pure functions."""

import abc
import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Params = dict[str, jax.Array]
State = Any
"""A NamedTuple of arrays, one a field, each `[*batch, size]`."""
Initializer = Callable[..., jax.Array]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""


class HiddenState(NamedTuple):
    """The state of a cell that remembers its last output and nothing else.

    Attributes:
      hidden: `[*batch, hidden_size]`, the hidden state.
    """

    hidden: jax.Array


@dataclasses.dataclass(frozen=True)
class Cell(abc.ABC):
    """What happens in one time step.

    A cell is a frozen dataclass that holds sizes and options and no array, so that it is hashable and
    can be a static argument of `jax.jit`. Its methods are pure functions.

    To write a cell, subclass this, decorate the class with `@dataclasses.dataclass(frozen=True)`, and
    define `output_size`, `init`, `initial_state` and `recur`. Where a part of the step needs the input
    alone, define `project` too: a strategy may compute it for all time steps at once.

    Example: a cell that adds up its inputs, run by `flaxrnn.scan` and, one step at a time, by hand.

      >>> import dataclasses, jax, flaxrnn
      >>> import jax.numpy as jnp
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sum(flaxrnn.cells.Cell):
      ...     size: int
      ...     @property
      ...     def output_size(self):
      ...         return self.size
      ...     def init(self, key, input_size, dtype=jnp.float32):
      ...         return {}
      ...     def initial_state(self, batch_shape=(), dtype=jnp.float32):
      ...         return flaxrnn.cells.HiddenState(jnp.zeros((*batch_shape, self.size), dtype))
      ...     def recur(self, params, state, projected):
      ...         total = state.hidden + projected
      ...         return flaxrnn.cells.HiddenState(total), total
      >>> state, outputs = flaxrnn.scan(Sum(1), {}, jnp.array([[1.0], [2.0], [4.0]]))
      >>> print(state.hidden, outputs[:, 0])
      [7.] [1. 3. 7.]
    """

    @property
    @abc.abstractmethod
    def output_size(self) -> int:
        """How many features an output has."""

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters for inputs of `input_size` features."""

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, one for each member of the batch."""

    def project(self, params: Params, inputs: jax.Array) -> Any:
        """The part of the step that looks at the input alone; by default the input itself.

        Args:
          params: what `init` gave.
          inputs: `[*batch, features]`, with any number of leading axes.

        Returns:
          What `recur` takes as `projected`, with the same leading axes.
        """
        del params
        return inputs

    @abc.abstractmethod
    def recur(self, params: Params, state: State, projected: Any) -> tuple[State, jax.Array]:
        """The part of the step that must wait for the state.

        Args:
          params: what `init` gave.
          state: the state after the step before.
          projected: what `project` made of this step's input.

        Returns:
          `(state, output)`: the state after this step, with the dtypes that it had before, and this
          step's output, `[*batch, output_size]`.
        """

    def step(self, params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        """One whole time step, `recur` after `project`.

        Its arguments have `jax.lax.scan`'s own order, so that
        `jax.lax.scan(functools.partial(cell.step, params), state, inputs)` runs the cell over
        `inputs`, `[time, *batch, features]`.

        Args:
          params: what `init` gave.
          state: the state after the step before.
          inputs: `[*batch, features]`, the input of this step.

        Returns:
          `(state, output)`, as `recur`.
        """
        return self.recur(params, state, self.project(params, inputs))


@dataclasses.dataclass(frozen=True)
class GatedCell(Cell):
    """A cell with a dense recurrent matrix, whose gates are blocks of its columns.

    It computes `projected = inputs @ kernel + bias` and `recurrent = hidden @ recurrent_kernel`, both
    `[*batch, gates * hidden_size]`, and leaves the rest to `gate`, which holds no matrix product. Because
    of that split a strategy can form the gradient of the weights in one matrix product over all time
    steps, for a new cell too.

    To write one, define `gates` and `gate`; define `initial_state` where the state has more to it than
    `HiddenState`.

    Parameters, where I is the input size, H `hidden_size` and G the number of gates:
      * `"kernel"`: `[I, G * H]`
      * `"recurrent_kernel"`: `[H, G * H]`
      * `"bias"`: `[G * H]`

    Attributes:
      hidden_size: how many features the hidden state has.
      kernel_init: draws `kernel`; LeCun normal by default.
      recurrent_kernel_init: draws the `[H, H]` block of `recurrent_kernel` of each gate, one by one;
        orthogonal by default.
      bias_init: draws `bias`; zeros by default.

    Example: a leaky integrator (Jaeger 2001).

      >>> import dataclasses, jax, flaxrnn
      >>> import jax.numpy as jnp
      >>> from flaxrnn.cells import GatedCell, HiddenState
      >>> @dataclasses.dataclass(frozen=True)
      ... class Leaky(GatedCell):
      ...     leak: float = 0.1
      ...     @property
      ...     def gates(self):
      ...         return ("candidate",)
      ...     def gate(self, params, state, projected, recurrent):
      ...         candidate = jnp.tanh(projected + recurrent)
      ...         hidden = (1 - self.leak) * state.hidden + self.leak * candidate
      ...         return HiddenState(hidden), hidden
      >>> cell = Leaky(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> state, outputs = flaxrnn.scan(cell, params, jnp.ones([2, 5, 3]))
      >>> outputs.shape
      (2, 5, 4)
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    kernel_init: Initializer = dataclasses.field(default=jax.nn.initializers.lecun_normal(), repr=False)
    recurrent_kernel_init: Initializer = dataclasses.field(default=jax.nn.initializers.orthogonal(), repr=False)
    bias_init: Initializer = dataclasses.field(default=jax.nn.initializers.zeros, repr=False)

    def __post_init__(self) -> None:
        check_size(self, "hidden_size")

    @property
    @abc.abstractmethod
    def gates(self) -> tuple[str, ...]:
        """The names of the gates, in the order of their columns."""

    @property
    def output_size(self) -> int:
        return self.hidden_size

    @abc.abstractmethod
    def gate(self, params: Params, state: State, projected: jax.Array, recurrent: jax.Array) -> tuple[State, jax.Array]:
        """What the step does after its matrix products: elementwise, or along the features.

        Everything arrives in at least float32, and what is returned is brought back to the dtype of the
        state, so a cell need not think of dtypes.

        Args:
          params: what `init` gave; the small vectors of it may be used, not the kernels.
          state: the state after the step before.
          projected: `[*batch, gates * hidden_size]`, the input's part of each gate, bias included.
          recurrent: `[*batch, gates * hidden_size]`, the hidden state's part of each gate.

        Returns:
          `(state, output)`.
        """

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        kernel_key, recurrent_key, bias_key = jax.random.split(key, 3)
        width = len(self.gates) * self.hidden_size
        block = (self.output_size, self.hidden_size)
        blocks = [self.recurrent_kernel_init(k, block) for k in jax.random.split(recurrent_key, len(self.gates))]
        params = {
            "kernel": self.kernel_init(kernel_key, (input_size, width)),
            "recurrent_kernel": jnp.concatenate(blocks, axis=-1),
            "bias": self.bias_init(bias_key, (width,)),
        }
        return {name: value.astype(dtype) for name, value in params.items()}

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return HiddenState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        kernel = params["kernel"]
        if inputs.shape[-1] != kernel.shape[0]:
            raise ValueError(
                f"inputs has {inputs.shape[-1]} features, but the parameters were made for {kernel.shape[0]}: "
                f"pass [..., time, {kernel.shape[0]}], or make parameters with init(key, {inputs.shape[-1]})"
            )
        return inputs @ kernel + params["bias"]

    def recur(self, params: Params, state: State, projected: jax.Array) -> tuple[State, jax.Array]:
        recurrent = state.hidden @ params["recurrent_kernel"]
        return self.gate_in_float32(params, state, projected, recurrent)

    def gate_in_float32(
        self, params: Params, state: State, projected: jax.Array, recurrent: jax.Array
    ) -> tuple[State, jax.Array]:
        """`gate`, computed in at least float32, with the state's dtypes kept."""
        widened = jax.tree.map(at_least_float32, (params, state, projected, recurrent))
        new_state, output = self.gate(*widened)
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
        return new_state, output.astype(state.hidden.dtype)

    def split(self, blocks: jax.Array) -> list[jax.Array]:
        """Splits `[*batch, gates * hidden_size]` into one array for each gate."""
        return jnp.split(blocks, len(self.gates), axis=-1)


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32 if its dtype is narrower, else `x` itself."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_size(cell: Cell, name: str) -> None:
    """Raises an error unless the field `name` of `cell` is a positive integer; makes it an `int`."""
    value = getattr(cell, name)
    kind = type(cell).__name__
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{kind}: {name} is {value!r}, a {type(value).__name__}: pass a positive integer") from None
    if isinstance(value, bool) or size < 1:
        raise ValueError(f"{kind}: {name} is {value!r}: pass a positive integer")
    object.__setattr__(cell, name, size)
