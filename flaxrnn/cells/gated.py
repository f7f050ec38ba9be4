"""Cells with gates: a dense recurrent matrix, and arithmetic without one."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn.cells.base import Cell, HiddenState, Initializer, Params, State, check_options, check_rate, check_size
from flaxrnn.cells.initializers import lecun_normal, orthogonal, small_normal
from flaxrnn.cells.products import Product, at_least_float32
from flaxrnn.checks import check_batch_shape, check_dtype, check_key, describe

Gates = tuple[jax.Array, ...]
"""One array `[*batch, hidden_size]` for each of the cell's gates, in their order."""


@dataclasses.dataclass(frozen=True, repr=False)
class GatedCell(Cell):
    """A cell with a dense recurrent matrix, whose gates are blocks of its columns.

    It computes `projected = inputs @ kernel + bias` and `recurrent = hidden @ recurrent_kernel`, each as a
    tuple of one array `[*batch, hidden_size]` for each gate, and leaves the rest to `gate`, which makes no
    matrix products. This split lets a strategy compute the gradient of the weights in one matrix product over
    all time steps, for your own cell too.

    To write one, define `gates` and `gate`, and `initial_state` if the state has more fields than `HiddenState`.

    Parameters, where I is the input size, H `hidden_size` and G the number of gates:
      * `"kernel"`: `[I, G * H]`
      * `"recurrent_kernel"`: `[H, G * H]`
      * `"bias"`: `[G * H]`, unless `use_bias=False`

    Attributes:
      hidden_size: the number of features of the hidden state.
      use_bias: whether there are biases.
      kernel_init: draws `kernel`; LeCun normal by default.
      recurrent_kernel_init: draws each gate's `[H, H]` block of `recurrent_kernel` separately; orthogonal by default.
      bias_init: draws `bias`; zeros by default.
      initial_state_init: draws each field of a learned initial state; normal, with standard deviation 0.1, by default.
      layer_norm: `inputs @ kernel` and `hidden @ recurrent_kernel` are each normalized along their features, and scaled
        by `params["input_scale"]` and `params["recurrent_scale"]`, `[G * H]` (Ba et al. 2016).
      learn_initial_state: the state before the first step, and after a reset, is learned: `params["initial_hidden"]`,
        and likewise for each other field of the state.
      input_dropout: dropout rate of the inputs, with one mask for all steps (Gal & Ghahramani 2016).
      hidden_dropout: dropout rate of the hidden state entering the recurrent product, with one mask for all steps (Gal
        & Ghahramani 2016). The hidden state that the gates carry over is not dropped.
      recurrent_dropout: dropout rate of the candidate, with one mask for all steps; it leaves the memory intact
        (Semeniuta et al. 2016).

    Masks are drawn from the `key` of `flaxrnn.scan` or of a layer, separately for each member of the batch; without a
    key, dropout is off. Kept values are scaled up in training, and nothing is scaled in evaluation. A mask holds for
    one call: sequences packed into one row by `resets` share it.

    Example: a leaky integrator (Jaeger 2001).

      >>> import dataclasses, jax, flaxrnn
      >>> import jax.numpy as jnp
      >>> from flaxrnn.cells import GatedCell, HiddenState
      >>> @dataclasses.dataclass(frozen=True)
      ... class Leaky(GatedCell):
      ...     leak: float = 0.1
      ...     gates = ("candidate",)
      ...     def gate(self, params, state, projected, recurrent):
      ...         candidate = jnp.tanh(projected[0] + recurrent[0])
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
    use_bias: bool = dataclasses.field(default=True, repr=False)
    kernel_init: Initializer = dataclasses.field(default=lecun_normal, repr=False)
    recurrent_kernel_init: Initializer = dataclasses.field(default=orthogonal, repr=False)
    initial_state_init: Initializer = dataclasses.field(default=small_normal, repr=False)
    bias_init: Initializer = dataclasses.field(default=jax.nn.initializers.zeros, repr=False)
    layer_norm: bool = dataclasses.field(default=False, repr=False)
    learn_initial_state: bool = dataclasses.field(default=False, repr=False)
    input_dropout: float = dataclasses.field(default=0.0, repr=False)
    hidden_dropout: float = dataclasses.field(default=0.0, repr=False)
    recurrent_dropout: float = dataclasses.field(default=0.0, repr=False)

    drops_candidate: ClassVar[bool] = False
    """Whether `gate` passes its candidate through `drop_candidate`, without which there is no recurrent dropout."""
    sums_only: ClassVar[bool] = False
    """Whether `gate` uses `projected` and `recurrent` only through their sum.

    If so, `gate` gets the sum as `recurrent` and zeros as `projected`, and a strategy need store only one of them.
    """

    def __post_init__(self) -> None:
        check_size(self, "hidden_size", self.hidden_size)
        check_options(self)
        if not isinstance(self.gates, tuple):
            raise TypeError(
                f"{type(self).__name__}: gates is {self.gates!r}: make it a tuple of names, such as "
                '("reset", "candidate")'
            )
        for name in ("input_dropout", "hidden_dropout", "recurrent_dropout"):
            check_rate(self, name)
        if self.recurrent_dropout and not self.drops_candidate:
            raise ValueError(
                f"{type(self).__name__} does not drop its candidate, so recurrent_dropout would do nothing: in gate, "
                "use self.drop_candidate(params, candidate), and set drops_candidate = True in the class"
            )

    @property
    @abc.abstractmethod
    def gates(self) -> tuple[str, ...]:
        """The names of the gates, in the order of their columns; `gates = ("reset", "candidate")` in a subclass."""

    @property
    def window(self) -> tuple[int, ...]:
        """The axes of a kernel before `[in, out]`: none for matrices, for convolutions their window; see `ConvCell`."""
        return ()

    @property
    def output_size(self) -> int:
        return self.hidden_size

    @property
    def feature_axes(self) -> int:
        return 1 + len(self.window)

    @abc.abstractmethod
    def gate(self, params: Params, state: State, projected: Gates, recurrent: Gates) -> tuple[State, jax.Array]:
        """What the step does after its matrix products: elementwise, or along the features.

        Everything arrives in at least float32, and what is returned is brought back to the dtype of the
        state, so a cell need not think of dtypes.

        Args:
          params: what `init` gave; the small vectors of it may be used, not the kernels.
          state: the state after the step before.
          projected: the input's part of each gate, bias included: a tuple of one array `[*batch, hidden_size]` for
            each of `self.gates`, in their order.
          recurrent: the hidden state's part of each gate, likewise.

        Returns:
          `(state, output)`.
        """

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check_key(key)
        check_size(self, "input_size", input_size)
        check_dtype(dtype)
        kernel_key, recurrent_key, bias_key, state_key = jax.random.split(key, 4)
        width = len(self.gates) * self.hidden_size
        block = (*self.window, self.output_size, self.hidden_size)
        blocks = [self.recurrent_kernel_init(k, block) for k in jax.random.split(recurrent_key, len(self.gates))]
        params = {
            "kernel": self.kernel_init(kernel_key, (*self.window, input_size, width)),
            "recurrent_kernel": jnp.concatenate(blocks, axis=-1),
        }
        if self.use_bias:
            params["bias"] = self.bias_init(bias_key, (width,))
        if self.layer_norm:
            params |= {"input_scale": jnp.ones(width), "recurrent_scale": jnp.ones(width)}
        if self.learn_initial_state:
            for number, (field, zeros) in enumerate(self.initial_state()._asdict().items()):
                field_key = jax.random.fold_in(state_key, number)
                params[f"initial_{field}"] = self.initial_state_init(field_key, zeros.shape)
        return {name: value.astype(dtype) for name, value in params.items()}

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        check_batch_shape(batch_shape)
        return HiddenState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def begin(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        state = self.initial_state(batch_shape, dtype)
        if not self.learn_initial_state:
            return state
        learned = type(state)(*(params[f"initial_{field}"] for field in state._fields))
        return jax.tree.map(lambda value, like: jnp.broadcast_to(value, like.shape).astype(like.dtype), learned, state)

    @property
    def stochastic(self) -> bool:
        return bool(self.input_dropout or self.hidden_dropout or self.recurrent_dropout)

    def perturb(self, key: jax.Array, params: Params, inputs: jax.Array) -> tuple[Params, jax.Array]:
        batch_shape = inputs.shape[1:-1]
        masks = {
            "input_mask": (self.input_dropout, inputs.shape[-1]),
            "hidden_mask": (self.hidden_dropout, self.output_size),
            "candidate_mask": (self.recurrent_dropout, self.hidden_size),
        }
        for mask_key, (name, (rate, size)) in zip(jax.random.split(key, len(masks)), masks.items(), strict=True):
            if rate:
                kept = jax.random.bernoulli(mask_key, 1 - rate, (*batch_shape, size))
                params = {**params, name: kept / jnp.float32(1 - rate)}
        return params, inputs

    def check_features(self, params: Params, input_size: int) -> None:
        made_for = params["kernel"].shape[-2]
        if input_size != made_for:
            kind, wanted = ("channels", "...") if self.window else ("features", "..., time")
            raise ValueError(
                f"inputs has {input_size} {kind}, but the parameters were made for {made_for}: "
                f"pass [{wanted}, {made_for}], or make parameters with init(key, {input_size})"
            )

    def project(self, params: Params, inputs: jax.Array, product: Product) -> Gates:
        self.check_features(params, inputs.shape[-1])
        projected = product("kernel", masked(params, "input_mask", inputs), gates=slice(None))
        if self.layer_norm:
            projected = self.normalize(projected, params["input_scale"])
        if not self.use_bias:
            return projected
        bias = jnp.split(params["bias"], len(self.gates))
        return tuple(block + own for block, own in zip(projected, bias, strict=True))

    def recur(self, params: Params, state: State, projected: Gates, product: Product) -> tuple[State, jax.Array]:
        if self.sums_only and not self.layer_norm:
            hidden = masked(params, "hidden_mask", state.hidden)
            recurrent = product("recurrent_kernel", hidden, gates=slice(None), add=projected)
            projected = tuple(jnp.zeros_like(block) for block in recurrent)
        else:
            recurrent = self.recurrent(params, state, projected, product)
        wide = jax.tree.map(at_least_float32, (params, state, projected, recurrent))
        result = self.gate(*wide)
        if not isinstance(result, tuple) or len(result) != 2 or type(result[0]) is not type(state):
            raise TypeError(f"{type(self).__name__}.gate gave back {describe(result)}: give back (state, output)")
        wide_state, wide_output = result
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), wide_state, state)
        if wide_output is wide_state.hidden:  # one array, for strategies that keep it once
            return new_state, new_state.hidden
        return new_state, wide_output.astype(state.hidden.dtype)

    def recurrent(self, params: Params, state: State, projected: Gates, product: Product) -> Gates:
        """The hidden state's part of each gate; layer normalization comes before the sum with the input's."""
        del projected
        recurrent = product("recurrent_kernel", masked(params, "hidden_mask", state.hidden), gates=slice(None))
        return self.normalize(recurrent, params["recurrent_scale"]) if self.layer_norm else recurrent

    def normalize(self, blocks: Gates, scale: jax.Array) -> Gates:
        """Layer normalization, by default of all gates together."""
        return normalize_together(blocks, scale)

    def drop_candidate(self, params: Params, candidate: jax.Array) -> jax.Array:
        """Recurrent dropout, where it is on: `gate` passes through here what it would add to the state."""
        return masked(params, "candidate_mask", candidate)


def masked(params: Params, name: str, values: jax.Array) -> jax.Array:
    """`values` times the mask `params[name]`, where there is one."""
    return (values * params[name]).astype(values.dtype) if name in params else values


def normalize_together(blocks: Gates, scale: jax.Array) -> Gates:
    """Layer normalization of some gates together, in at least float32; `scale` is `[len(blocks) * hidden_size]`."""
    normalized = standardize(at_least_float32(jnp.concatenate(blocks, axis=-1))) * at_least_float32(scale)
    return tuple(jnp.split(normalized, len(blocks), axis=-1))


def standardize(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """`x` with mean 0 and variance 1 along its features."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centered**2, axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon)
