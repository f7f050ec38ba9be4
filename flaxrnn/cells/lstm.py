"""The long short-term memory, with a forget gate and the variants that the literature has added."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike

from flaxrnn.cells.base import Initializer, Params, check_size
from flaxrnn.cells.gated import GatedCell, Gates, standardize
from flaxrnn.cells.initializers import lecun_normal
from flaxrnn.cells.products import Product
from flaxrnn.checks import check_batch_shape, check_key


class LSTMState(NamedTuple):
    """What an LSTM remembers.

    Attributes:
      hidden: `[*batch, hidden_size]` (with a projection `[*batch, projection_size]`), the last output.
      cell: `[*batch, hidden_size]`, the memory; in float32 even where the rest is bfloat16.

    Example:
      >>> from flaxrnn.cells import LSTM
      >>> state = LSTM(4, projection_size=2).initial_state(batch_shape=(3,))
      >>> state.hidden.shape, state.cell.shape
      ((3, 2), (3, 4))
    """

    hidden: jax.Array
    cell: jax.Array


jax.export.register_namedtuple_serialization(LSTMState, serialized_name="flaxrnn.LSTMState")


@dataclasses.dataclass(frozen=True, repr=False)
class LSTM(GatedCell):
    """The long short-term memory.

    One step::

        i = sigmoid(x U_i + b_i + h W_i)        input gate
        f = sigmoid(x U_f + b_f + h W_f)        forget gate
        g = tanh(x U_g + b_g + h W_g)           candidate
        c' = f * c + i * g                      memory
        o = sigmoid(x U_o + b_o + h W_o)        output gate
        h' = o * tanh(c')

    The blocks of `params["kernel"]` (U), `params["recurrent_kernel"]` (W) and `params["bias"]` (b) stand
    in the order i, f, g, o. The options combine freely.

    Attributes:
      hidden_size: H, how many features the memory has.
      forget_bias: where the bias of the forget gate begins. It is a part of `params["bias"]`, not a constant
        added at each step, so the mathematics is the same as in every other framework.
      peephole: the gates see the memory: i and f the old one, o the new one, each weighed feature by feature
        by `params["peephole"]`, `[3, H]`, rows i, f, o (coupled: `[2, H]`, rows f, o).
      coupled: i = 1 - f, so that the memory takes in as much as it forgets. The order is then f, g, o.
      projection_size: P; the output is `(o * tanh(c')) @ params["projection_kernel"]`, `[H, P]`, and this is
        what the next step and the next layer see. `params["recurrent_kernel"]` is then `[P, G * H]`.
      cell_clip: the new memory is clipped to [-cell_clip, cell_clip] before the output gate sees it.
      projection_clip: the projected output is clipped to [-projection_clip, projection_clip].
      peephole_init: draws `params["peephole"]`; zeros by default, with which it begins as an LSTM without.
      projection_kernel_init: draws `params["projection_kernel"]`; LeCun normal by default.

    Layer normalization, a learned initial state, dropout and further initializers are options of every `GatedCell`.
    With `layer_norm` the output sees the memory normalized too, scaled by `params["cell_scale"]` and moved by
    `params["cell_bias"]`, each `[H]`.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.LSTM(hidden_size=4, peephole=True)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (16,), 'kernel': (3, 16), 'peephole': (3, 4), 'recurrent_kernel': (4, 16)}
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 5, 3]))
      >>> outputs.shape, state.cell.shape
      ((2, 5, 4), (2, 4))

    References:
      Hochreiter & Schmidhuber, `Long short-term memory <https://doi.org/10.1162/neco.1997.9.8.1735>`_, 1997.
      Gers et al., `Learning to forget <https://doi.org/10.1162/089976600300015015>`_, 2000: the forget gate;
      and `Recurrent nets that time and count <https://doi.org/10.1109/IJCNN.2000.861302>`_, 2000: peepholes.
      Greff et al., `LSTM: a search space odyssey <https://arxiv.org/abs/1503.04069>`_, 2015: coupled gates.
      Sak et al., `LSTM recurrent neural network architectures <https://arxiv.org/abs/1402.1128>`_, 2014:
      the projection.
      Ba et al., `Layer normalization <https://arxiv.org/abs/1607.06450>`_, 2016: `layer_norm`, equations 20 to 22.
      Jozefowicz et al., `An empirical exploration of recurrent network architectures
      <https://proceedings.mlr.press/v37/jozefowicz15.html>`_, 2015: the forget bias.

    How it differs from other frameworks:
      Flax and Haiku carry the state as (c, h) or (h, c); here the fields have names. TF1 and Haiku add the
      forget bias at run time. Torch has two biases, which add up to this one, and begins its forget bias at
      about zero. Keras orders the gates i, f, c, o, which is the same with another name; Haiku i, g, f, o.
    """

    forget_bias: float = 1.0
    peephole: bool = False
    coupled: bool = False
    projection_size: int | None = None
    cell_clip: float | None = None
    projection_clip: float | None = None
    _: dataclasses.KW_ONLY
    peephole_init: Initializer = dataclasses.field(default=jax.nn.initializers.zeros, repr=False)
    projection_kernel_init: Initializer = dataclasses.field(default=lecun_normal, repr=False)

    drops_candidate = True
    sums_only = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        if self.projection_size is not None:
            check_size(self, "projection_size", self.projection_size)
        elif self.projection_clip is not None:
            raise ValueError(f"{kind}: projection_clip needs a projection to clip: pass projection_size too")
        for name in ("cell_clip", "projection_clip"):
            clip = getattr(self, name)
            if clip is not None and not clip > 0:
                raise ValueError(f"{kind}: {name} is {clip!r}: pass a positive number, or None for no clipping")

    @property
    def gates(self) -> tuple[str, ...]:
        return ("forget", "candidate", "output") if self.coupled else ("input", "forget", "candidate", "output")

    @property
    def output_size(self) -> int:
        return self.hidden_size if self.projection_size is None else self.projection_size

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check_key(key)
        base_key, peephole_key, projection_key = jax.random.split(key, 3)
        params = super().init(base_key, input_size, dtype)
        if self.use_bias:
            forget = self.gates.index("forget") * self.hidden_size
            params["bias"] = params["bias"].at[forget : forget + self.hidden_size].add(self.forget_bias)
        if self.peephole:
            shape = (len(self.gates) - 1, self.hidden_size)
            params["peephole"] = self.peephole_init(peephole_key, shape).astype(dtype)
        if self.projection_size is not None:
            shape = (self.hidden_size, self.projection_size)
            params["projection_kernel"] = self.projection_kernel_init(projection_key, shape).astype(dtype)
        if self.layer_norm:
            params |= {"cell_scale": jnp.ones(self.hidden_size, dtype), "cell_bias": jnp.zeros(self.hidden_size, dtype)}
        return params

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LSTMState:
        check_batch_shape(batch_shape)
        hidden = jnp.zeros((*batch_shape, self.output_size), dtype)
        cell = jnp.zeros((*batch_shape, self.hidden_size), jnp.promote_types(dtype, jnp.float32))
        return LSTMState(hidden, cell)

    def recur(
        self, params: Params, state: LSTMState, projected: Gates, product: Product
    ) -> tuple[LSTMState, jax.Array]:
        new_state, output = super().recur(params, state, projected, product)
        if self.projection_size is None:
            return new_state, output
        output = clip(product("projection_kernel", output), self.projection_clip).astype(state.hidden.dtype)
        return LSTMState(output, new_state.cell), output

    def gate(self, params: Params, state: LSTMState, projected: Gates, recurrent: Gates) -> tuple[LSTMState, jax.Array]:
        *own_i, f, g, o = map(jnp.add, projected, recurrent)
        f = sigmoid(self.peep(params, f, state.cell, row=-2))
        i = 1 - f if self.coupled else sigmoid(self.peep(params, own_i[0], state.cell, row=0))
        g = self.drop_candidate(params, jnp.tanh(g))
        cell = clip(f * state.cell + i * g, self.cell_clip)
        o = sigmoid(self.peep(params, o, cell, row=-1))
        hidden = o * jnp.tanh(self.normalize_cell(params, cell))
        return LSTMState(hidden, cell), hidden

    def peep(self, params: Params, gate: jax.Array, cell: jax.Array, row: int) -> jax.Array:
        """Adds to a gate what it sees of the memory, where the LSTM has peepholes."""
        return gate + params["peephole"][row] * cell if self.peephole else gate

    def normalize_cell(self, params: Params, cell: jax.Array) -> jax.Array:
        """What the output sees of the memory: with `layer_norm` it is normalized too (Ba et al., equation 22)."""
        return standardize(cell) * params["cell_scale"] + params["cell_bias"] if self.layer_norm else cell


def clip(x: jax.Array, limit: float | None) -> jax.Array:
    """`x` brought into [-limit, limit]; `x` itself where there is no limit."""
    return x if limit is None else jnp.clip(x, -limit, limit)
