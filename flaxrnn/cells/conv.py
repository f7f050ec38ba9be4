"""Cells over signals, images or volumes: the LSTM and the GRU with convolutions in place of matrix products."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxrnn.cells.base import Params, check_size
from flaxrnn.cells.gated import GatedCell
from flaxrnn.cells.gru import GRU
from flaxrnn.cells.lstm import LSTM, LSTMState


@dataclasses.dataclass(frozen=True, repr=False)
class ConvCell(GatedCell):
    """A gated cell with convolutions over one to three spatial axes in place of matrix products.

    Inputs are `[*batch, time, *spatial, channels]`; state and output have the same spatial axes. Gates are elementwise,
    and so the same as in a cell over vectors: to make such a cell convolutional, put `ConvCell` first among the bases.

    The convolutions have stride 1 and zero padding ("SAME").

    Parameters, where K is `kernel_size`, I the number of input channels, H `features` and G the number of gates:
      * `"kernel"`: `[*K, I, G * H]`
      * `"recurrent_kernel"`: `[*K, H, G * H]`
      * `"bias"`: `[G * H]`, unless `use_bias=False`

    None of them depends on the size of the images. A learned initial state has one value per channel, `[H]`.
    `layer_norm` normalizes along the channels of each position. Dropout draws its masks for each position and channel.

    Attributes:
      features: H, the number of channels of state and output; also available as `hidden_size`.
      kernel_size: the window of both convolutions, one number for each spatial axis, such as `(3, 3)` for images.

    Example: an Elman cell over signals.

      >>> import dataclasses, jax, flaxrnn
      >>> from flaxrnn.cells import ConvCell, Elman
      >>> @dataclasses.dataclass(frozen=True)
      ... class ConvElman(ConvCell, Elman):
      ...     _: dataclasses.KW_ONLY
      ...     activation: object = jax.nn.relu
      >>> cell = ConvElman(4, (5,))
      >>> params = cell.init(jax.random.key(0), input_size=2)
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([3, 7, 100, 2]))  # [batch, time, width, channels]
      >>> outputs.shape
      (3, 7, 100, 4)
    """

    hidden_size: int = dataclasses.field(init=False, repr=False)
    features: int
    kernel_size: tuple[int, ...]

    def __post_init__(self) -> None:
        check_size(self, "features", self.features)
        object.__setattr__(self, "hidden_size", self.features)
        object.__setattr__(self, "kernel_size", spatial_shape(self, "kernel_size", self.kernel_size))
        super().__post_init__()

    @property
    def window(self) -> tuple[int, ...]:
        return self.kernel_size


@dataclasses.dataclass(frozen=True, repr=False)
class ConvLSTM(ConvCell, LSTM):
    """The convolutional LSTM: an LSTM at each position, which also sees the neighbouring positions.

    One step, where ``*`` is a convolution over the spatial axes and ``·`` is elementwise::

        i = sigmoid(U_i * x + W_i * h + p_i · c + b_i)      input gate
        f = sigmoid(U_f * x + W_f * h + p_f · c + b_f)      forget gate
        g = tanh(U_g * x + W_g * h + b_g)                   candidate
        c' = f · c + i · g                                  memory
        o = sigmoid(U_o * x + W_o * h + p_o · c' + b_o)     output gate
        h' = o · tanh(c')

    The blocks of `params["kernel"]` (U), `params["recurrent_kernel"]` (W) and `params["bias"]` (b) are in the
    order i, f, g, o. The peepholes (p) are optional, as in `LSTM`.

    Attributes:
      features: H, the number of channels of the memory.
      kernel_size: the window of both convolutions, one number for each of one to three spatial axes.
      peephole: the gates see the memory, weighted by `params["peephole"]`, `[3, H]`, rows i, f, o.
      peephole_shape: the size of the images, such as `(64, 64)`, for peepholes with one weight per position and
        channel, `[3, *peephole_shape, H]`, as in the paper (its Hadamard product). The cell then takes only images of
        that size. None, the default, gives one weight per channel, for images of any size.
      projection_size: P, as in `LSTM`: `params["projection_kernel"]`, `[H, P]`, is a convolution of window 1.
      forget_bias, coupled, cell_clip, projection_clip: as in `LSTM`.

    Example: 16 channels, over images of 8 by 8 pixels with three colours.

      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.ConvLSTM(16, (3, 3))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (64,), 'kernel': (3, 3, 3, 64), 'recurrent_kernel': (3, 3, 16, 64)}
      >>> movie = jax.numpy.ones([2, 5, 8, 8, 3])  # [batch, time, height, width, channels]
      >>> state, outputs = flaxrnn.scan(cell, params, movie)
      >>> outputs.shape, state.cell.shape
      ((2, 5, 8, 8, 16), (2, 8, 8, 16))
      >>> cell.initial_state((2, 8, 8)).hidden.shape
      (2, 8, 8, 16)

    References:
      Shi et al., `Convolutional LSTM network: a machine learning approach for precipitation nowcasting
      <https://arxiv.org/abs/1506.04214>`_, 2015, equation 3.

    How it differs from other frameworks:
      Flax's `ConvLSTMCell` and Haiku's `Conv2DLSTM` order the gates i, g, f, o. They have a bias for each of the two
      convolutions, whose sum is the bias here, and add 1 to the forget gate at run time; here the bias includes it.
      Keras's `ConvLSTM2D` orders the gates as here, but by default does not pad the input (`padding="valid"`). None of
      them has peepholes. Channels come last; in many torch implementations they precede the image.
    """

    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0
    peephole: bool = False
    coupled: bool = False
    projection_size: int | None = None
    cell_clip: float | None = None
    projection_clip: float | None = None
    peephole_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.peephole_shape is None:
            return
        if not self.peephole:
            raise ValueError("ConvLSTM: peephole_shape is given, but peephole is False: pass peephole=True too")
        shape = spatial_shape(self, "peephole_shape", self.peephole_shape)
        if len(shape) != len(self.kernel_size):
            raise ValueError(
                f"ConvLSTM: peephole_shape is {shape}, but kernel_size is {self.kernel_size}: pass one number "
                "for each spatial axis in both"
            )
        object.__setattr__(self, "peephole_shape", shape)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, input_size, dtype)
        if self.peephole_shape is not None:
            rows, channels = params["peephole"].shape
            shape = (rows, *self.peephole_shape, channels)
            params["peephole"] = self.peephole_init(jax.random.fold_in(key, rows), shape).astype(dtype)
        return params

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LSTMState:
        state = super().initial_state(batch_shape, dtype)
        spatial = tuple(batch_shape[-len(self.kernel_size) :])
        if spatial and self.peephole_shape not in (None, spatial):
            raise ValueError(
                f"the peepholes of {self} are for images of {list(self.peephole_shape or ())}, but these have "
                f"{list(spatial)}: leave peephole_shape out for images of any size"
            )
        return state


@dataclasses.dataclass(frozen=True, repr=False)
class ConvGRU(ConvCell, GRU):
    """The convolutional GRU: a GRU at each position, which also sees the neighbouring positions.

    One step, where ``*`` is a convolution over the spatial axes and ``·`` is elementwise::

        r = sigmoid(U_r * x + W_r * h + b_r)                reset gate
        z = sigmoid(U_z * x + W_z * h + b_z)                update gate
        n = tanh(U_n * x + b_n + r · (W_n * h + b'))        candidate, reset_after=True
        n = tanh(U_n * x + b_n + W_n * (r · h))             candidate, reset_after=False
        h' = z · h + (1 - z) · n

    The blocks of `params["kernel"]` (U), `params["recurrent_kernel"]` (W) and `params["bias"]` (b) are in the order
    r, z, n; b' is `params["recurrent_bias"]`, `[H]`.

    Attributes:
      features: H, the number of channels of state and output.
      kernel_size: the window of both convolutions, one number for each of one to three spatial axes.
      reset_after: whether the reset gate acts after the recurrent convolution, as in Shi et al., or before it, as in
        Ballas et al.; then a step has two recurrent convolutions in a row.

    Example:
      >>> import jax, flaxrnn
      >>> cell = flaxrnn.cells.ConvGRU(16, (3, 3))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> jax.tree.map(jax.numpy.shape, params)
      {'bias': (48,), 'kernel': (3, 3, 3, 48), 'recurrent_bias': (16,), 'recurrent_kernel': (3, 3, 16, 48)}
      >>> state, outputs = flaxrnn.scan(cell, params, jax.numpy.ones([2, 5, 8, 8, 3]))
      >>> outputs.shape
      (2, 5, 8, 8, 16)

    References:
      Shi et al., `Deep learning for precipitation nowcasting <https://arxiv.org/abs/1706.03458>`_, 2017:
      `reset_after=True`.
      Ballas et al., `Delving deeper into convolutional networks for learning video representations
      <https://arxiv.org/abs/1511.06432>`_, 2015: `reset_after=False`.

    How it differs from other frameworks:
      Flax, Keras and Haiku have no convolutional GRU. Ballas et al. write h' = (1 - z) · h + z · n. Shi et al. (2017)
      use leaky ReLUs in place of tanh.
    """

    _: dataclasses.KW_ONLY
    reset_after: bool = True


def spatial_shape(cell: ConvCell, name: str, value: object) -> tuple[int, ...]:
    """The field `name` of a cell as a tuple of one to three sizes; an error if it is anything else."""
    kind = type(cell).__name__
    if not isinstance(value, tuple | list) or not 1 <= len(value) <= 3:
        raise ValueError(
            f"{kind}: {name} is {value!r}: pass a tuple with one number for each of one to three spatial axes, such as "
            "(3, 3) for images"
        )
    for size in value:
        check_size(cell, name, size)
    return tuple(map(operator.index, value))
