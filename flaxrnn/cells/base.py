"""What a cell is: one time step of a recurrent network, as pure functions."""

import abc
import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn.cells.products import MatrixProducts, Product
from flaxrnn.checks import check_array, check_state, describe

Params = dict[str, jax.Array]
State = Any
"""A NamedTuple of arrays, one a field, each `[*batch, size]`, or `[*batch, *spatial, size]`."""
Initializer = Callable[..., jax.Array]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""


class HiddenState(NamedTuple):
    """The state of a cell that remembers its last output and nothing else.

    Attributes:
      hidden: `[*batch, hidden_size]`, the hidden state.

    Example:
      >>> from flaxrnn.cells import GRU
      >>> GRU(2).initial_state(batch_shape=(3,)).hidden.shape
      (3, 2)
    """

    hidden: jax.Array


jax.export.register_namedtuple_serialization(HiddenState, serialized_name="flaxrnn.HiddenState")


@dataclasses.dataclass(frozen=True, repr=False)
class Cell(abc.ABC):
    """What happens in one time step.

    A cell is a frozen dataclass that holds sizes and options and no array, so that it is hashable and
    can be a static argument of `jax.jit`. Its methods are pure functions.

    To write a cell, subclass this, decorate the class with `@dataclasses.dataclass(frozen=True)`, and
    define `output_size`, `init`, `initial_state` and `recur`. Where a part of the step needs the input
    alone, define `project` too: a strategy may compute it for all time steps at once. Matrix products
    are requested by the name of their kernel, `product("recurrent_kernel", state.hidden)`, so that a
    strategy can form each kernel's gradient in one product over all time steps.

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
      ...     def recur(self, params, state, projected, product):
      ...         total = state.hidden + projected
      ...         return flaxrnn.cells.HiddenState(total), total
      >>> state, outputs = flaxrnn.scan(Sum(1), {}, jnp.array([[1.0], [2.0], [4.0]]))
      >>> print(state.hidden, outputs[:, 0])
      [7.] [1. 3. 7.]
    """

    def __new__(cls, *args: Any, **options: Any) -> "Cell":
        """Refuses a class with fields of its own that is no dataclass, whose `__init__` would not know them."""
        del args, options
        kinds = {} if "__dataclass_fields__" in cls.__dict__ else inspect.get_annotations(cls)
        if fields := [name for name, kind in kinds.items() if "ClassVar" not in str(kind)]:
            raise TypeError(
                f"{cls.__name__} has the fields {', '.join(fields)}, but is no dataclass: decorate the class with "
                "@dataclasses.dataclass(frozen=True)"
            )
        return super().__new__(cls)

    def __repr__(self) -> str:
        """The cell with the options that differ from their defaults, for dataclasses with `repr=False`."""
        fields = [
            field
            for field in sorted(dataclasses.fields(self), key=lambda field: field.kw_only is True)
            if field.init and not field.name.endswith("_init") and getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in fields)})"

    @property
    @abc.abstractmethod
    def output_size(self) -> int:
        """How many features an output has."""

    @property
    def feature_axes(self) -> int:
        """How many of the last axes of the inputs are one step's features.

        By default 1: inputs are `[*batch, time, features]`. With more, all but the last are spatial and stay the same
        from input to state and output: with 3, inputs are `[*batch, time, height, width, channels]`.
        """
        return 1

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters for inputs of `input_size` features."""

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step.

        Args:
          batch_shape: `[*batch]`, all axes of the state but the last; with several feature axes `[*batch, *spatial]`,
            such as `(32, 64, 64)` for 32 sequences of images of 64 by 64 pixels.
          dtype: the dtype of the inputs.

        Returns:
          A NamedTuple of arrays, each `[*batch_shape, size]`.
        """

    def check_features(self, params: Params, input_size: int) -> None:
        """Raises an error if the parameters were made for inputs of another size; by default it does not look."""
        del params, input_size

    def begin(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, where it may depend on parameters; by default `initial_state`."""
        del params
        return self.initial_state(batch_shape, dtype)

    @property
    def stochastic(self) -> bool:
        """Whether the cell has dropout or zoneout, and so does something else where it is given a key."""
        return False

    def perturb(self, key: jax.Array, params: Params, inputs: jax.Array) -> tuple[Params, Any]:
        """Draws the randomness of one pass over a sequence, for a cell that has any.

        Args:
          key: where the randomness comes from.
          params: what `init` gave.
          inputs: `[time, *batch, features]`.

        Returns:
          `(params, inputs)`, as `step` takes them in place of its own: masks that hold for the whole sequence are
          among the parameters, those that are drawn for each step come with that step's input.
        """
        del key
        return params, inputs

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of the gates, in the order of their columns, for a cell that has any."""
        return ()

    def project(self, params: Params, inputs: Any, product: Product) -> Any:
        """The part of the step that needs the input alone; by default the input itself.

        Args:
          params: what `init` gave.
          inputs: `[*batch, features]`, with any number of leading axes.
          product: makes the matrix products, by the names of their kernels; see `flaxrnn.cells.Product`.

        Returns:
          What `recur` takes as `projected`, with the same leading axes.
        """
        del params, product
        return inputs

    @abc.abstractmethod
    def recur(self, params: Params, state: State, projected: Any, product: Product) -> tuple[State, jax.Array]:
        """The part of the step that must wait for the state.

        Args:
          params: what `init` gave.
          state: the state after the step before.
          projected: what `project` made of this step's input.
          product: makes the matrix products, by the names of their kernels; see `flaxrnn.cells.Product`. Call it here,
            not inside a loop or a `vmap` of your own. A product that is made by `@` instead is correct too, but a
            strategy cannot join it with those of the other steps.

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
        first = next(iter(jax.tree.leaves(inputs)), inputs)
        check_array("inputs", first)
        batch_shape = first.shape[:-1]
        check_state("state", state, jax.eval_shape(lambda: self.initial_state(batch_shape)))
        product = MatrixProducts(self, params)
        return self.recur(params, state, self.project(params, inputs, product), product)


def check_rate(owner: Any, name: str) -> None:
    """Raises an error unless the field `name` of a cell or a layer is a probability below one."""
    rate = getattr(owner, name)
    try:
        fits = 0 <= float(rate) < 1
    except (TypeError, ValueError):
        fits = False
    if not fits or isinstance(rate, bool):
        raise ValueError(f"{type(owner).__name__}: {name} is {rate!r}: pass a probability, from 0 up to but not 1")


def check_cell(cell: Any) -> None:
    """Raises an error unless `cell` can be scanned and be a static argument of `jit`."""
    if isinstance(cell, type) and issubclass(cell, Cell):
        raise TypeError(f"cell is the class {cell.__name__}: pass an instance of it, such as {cell.__name__}(128)")
    if not isinstance(cell, Cell) and hasattr(cell, "apply"):
        raise TypeError(f"cell is the layer {cell!r}: pass a cell, or call the layer's own apply")
    if not isinstance(cell, Cell):
        raise TypeError(f"cell is {describe(cell)}: pass a flaxrnn.cells.Cell, such as flaxrnn.cells.LSTM(128)")
    try:
        hash(cell)
    except TypeError as error:
        kind = type(cell).__name__
        raise TypeError(
            f"{kind} cannot be hashed ({error}): decorate the class with @dataclasses.dataclass(frozen=True), and have "
            "tuples, numbers, strings and functions in its fields, no lists and no arrays"
        ) from None


def check_options(owner: Any) -> None:
    """Raises an error unless a cell's or a layer's switches are True or False, and its functions functions."""
    for field in dataclasses.fields(owner):
        value, name = getattr(owner, field.name), f"{type(owner).__name__}: {field.name}"
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}: pass True or False")
        if callable(field.default) and not callable(value):
            raise TypeError(f"{name} is {value!r}: pass a function")


def check_size(cell: Cell, name: str, value: Any) -> None:
    """Raises an error unless `value`, called `name`, is a positive integer."""
    kind = type(cell).__name__
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{kind}: {name} is {value!r}, a {type(value).__name__}: pass a positive integer") from None
    if isinstance(value, bool) or size < 1:
        raise ValueError(f"{kind}: {name} is {value!r}: pass a positive integer")
