"""The same recurrent layer in each library, written as its documentation recommends."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], Any]
"""Computes once, and returns when the result is ready."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One computation to time.

    Attributes:
      cell: "lstm", "gru" or "elman".
      mode: "forward"; "train", value and gradient of every parameter; or "step", a single step forward.
      batch, time, input_size, hidden_size: the shapes.
    """

    cell: str
    mode: str
    batch: int
    time: int
    input_size: int
    hidden_size: int

    @property
    def gates(self) -> int:
        """Number of gate blocks in the kernels."""
        return {"lstm": 4, "gru": 3, "elman": 1}[self.cell]

    @property
    def operations(self) -> float:
        """Floating-point operations in the matrix products.

        Forward, each weight takes part in one product. Training adds one for the weight's gradient, and for recurrent
        weights another for the gradient of the state.
        """
        per_step = 2 * self.batch * self.gates * self.hidden_size
        inputs, hidden = self.input_size, self.hidden_size
        return self.time * per_step * ((2 * inputs + 3 * hidden) if self.mode == "train" else (inputs + hidden))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The inputs, and the weights of the outputs in the loss; the same for each library."""
        draw = np.random.default_rng(0).normal
        inputs = draw(size=(self.batch, self.time, self.input_size)).astype(np.float32)
        return inputs, draw(size=(self.batch, self.time, self.hidden_size)).astype(np.float32)


def build(library: str, case: Case) -> Run | None:
    """The computation to time; None if the library has no such cell."""
    return BUILDERS[library](case)


def _jax(case: Case, params: Any, state: Any, sequence: Callable, step: Callable) -> Run:
    """A run from `sequence(params, inputs) -> outputs` and `step(params, state, inputs) -> output`, jitted.

    The state is an argument because XLA drops products with a state that it knows to be zero.
    """
    import jax
    import jax.numpy as jnp

    inputs, weights = map(jnp.asarray, case.arrays())

    def loss(params: Any, inputs: Any, weights: Any) -> Any:
        return jnp.sum(sequence(params, inputs) * weights)

    if case.mode == "train":
        train = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(train(params, inputs, weights))
    if case.mode == "step":
        one_step, first = jax.jit(step), inputs[:, 0]
        return lambda: jax.block_until_ready(one_step(params, state, first))
    forward = jax.jit(sequence)
    return lambda: jax.block_until_ready(forward(params, inputs))


def flaxrnn_(case: Case, strategy: str = "auto") -> Run:
    """flaxrnn, by default with the strategy that it chooses itself."""
    import jax

    import flaxrnn

    cell = flaxrnn.cells.make(case.cell, hidden_size=case.hidden_size)
    params = cell.init(jax.random.key(0), case.input_size)
    return _jax(
        case,
        params,
        cell.initial_state((case.batch,)),
        lambda params, inputs: flaxrnn.scan(cell, params, inputs, strategy=strategy)[1],
        cell.step,
    )


def linen(case: Case, optimized: bool = False) -> Run | None:
    """`flax.linen.RNN`."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    lstm = nn.OptimizedLSTMCell if optimized else nn.LSTMCell
    if optimized and case.cell != "lstm":
        return None
    kind: Any = {"lstm": lstm, "gru": nn.GRUCell, "elman": nn.SimpleCell}[case.cell]
    cell = kind(case.hidden_size)
    layer = nn.RNN(cell)
    shape = case.batch, case.input_size
    carry = cell.initialize_carry(jax.random.key(0), shape)
    if case.mode == "step":
        params = cell.init(jax.random.key(0), carry, jnp.zeros(shape))
    else:
        params = layer.init(jax.random.key(0), jnp.zeros((case.batch, 1, case.input_size)))
    return _jax(case, params, carry, layer.apply, cell.apply)


def nnx(case: Case, optimized: bool = False) -> Run | None:
    """`flax.nnx.RNN`, under nnx's own `jit` and `value_and_grad`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    if optimized and case.cell != "lstm":
        return None
    lstm = nnx.OptimizedLSTMCell if optimized else nnx.LSTMCell
    kind: Any = {"lstm": lstm, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}[case.cell]
    rngs = nnx.Rngs(0)
    cell = kind(case.input_size, case.hidden_size, rngs=rngs)
    carry = cell.initialize_carry((case.batch, case.input_size), rngs)
    layer = nnx.RNN(cell, rngs=rngs)
    inputs, weights = map(jnp.asarray, case.arrays())
    if case.mode == "step":
        step, first = nnx.jit(lambda cell, carry, inputs: cell(carry, inputs)), inputs[:, 0]
        return lambda: jax.block_until_ready(step(cell, carry, first))
    if case.mode == "forward":
        forward = nnx.jit(lambda layer, inputs: layer(inputs))
        return lambda: jax.block_until_ready(forward(layer, inputs))
    train = nnx.jit(nnx.value_and_grad(lambda layer, inputs, weights: jnp.sum(layer(inputs) * weights)))
    return lambda: jax.block_until_ready(train(layer, inputs, weights))


def haiku(case: Case) -> Run:
    """`haiku.dynamic_unroll`."""
    import haiku as hk
    import jax
    import jax.numpy as jnp

    kind: Any = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}[case.cell]

    def sequence(inputs: Any) -> Any:
        core = kind(case.hidden_size)
        return hk.dynamic_unroll(core, inputs, core.initial_state(case.batch), time_major=False)[0]

    def step(state: Any, inputs: Any) -> Any:
        return kind(case.hidden_size)(inputs, state)

    sequences: Any = hk.without_apply_rng(hk.transform(sequence))
    steps: Any = hk.without_apply_rng(hk.transform(step))
    zeros = jnp.zeros((case.batch, case.hidden_size))
    state = hk.LSTMState(zeros, zeros) if case.cell == "lstm" else zeros
    if case.mode == "step":
        params = steps.init(jax.random.key(0), state, jnp.zeros((case.batch, case.input_size)))
    else:
        params = sequences.init(jax.random.key(0), jnp.zeros((case.batch, 1, case.input_size)))
    return _jax(case, params, state, sequences.apply, steps.apply)


def equinox(case: Case) -> Run | None:
    """Equinox's cells under `lax.scan` and `vmap`, as in its documentation; it has no Elman network."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    if case.cell == "elman":
        return None
    cell = (eqx.nn.LSTMCell if case.cell == "lstm" else eqx.nn.GRUCell)(
        case.input_size, case.hidden_size, key=jax.random.key(0)
    )
    params, rest = eqx.partition(cell, eqx.is_array)
    zeros = jnp.zeros(case.hidden_size)
    start = (zeros, zeros) if case.cell == "lstm" else zeros
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (case.batch, *leaf.shape)), start)

    def one_sequence(params: Any, inputs: Any) -> Any:
        cell = eqx.combine(params, rest)

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            state = cell(inputs, state)
            return state, state[0] if case.cell == "lstm" else state

        return jax.lax.scan(step, start, inputs)[1]

    return _jax(
        case,
        params,
        states,
        jax.vmap(one_sequence, in_axes=(None, 0)),
        jax.vmap(lambda params, state, inputs: eqx.combine(params, rest)(inputs, state), in_axes=(None, 0, 0)),
    )


def keras(case: Case) -> Run:
    """Keras 3 on JAX, by `stateless_call`."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax.numpy as jnp
    import keras

    kinds = {
        "lstm": (keras.layers.LSTM, keras.layers.LSTMCell),
        "gru": (keras.layers.GRU, keras.layers.GRUCell),
        "elman": (keras.layers.SimpleRNN, keras.layers.SimpleRNNCell),
    }
    layer_kind, cell_kind = kinds[case.cell]
    if case.mode == "step":
        layer = cell_kind(case.hidden_size)
        layer.build((case.batch, case.input_size))
    else:
        layer = layer_kind(case.hidden_size, return_sequences=True)
        layer.build((case.batch, case.time, case.input_size))
    params = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    zeros = jnp.zeros((case.batch, case.hidden_size))
    states = [zeros, zeros] if case.cell == "lstm" else [zeros]
    return _jax(
        case,
        params,
        states,
        lambda params, inputs: layer.stateless_call(params, fixed, inputs)[0],
        lambda params, states, inputs: layer.stateless_call(params, fixed, inputs, states)[0],
    )


def torch(case: Case) -> Run:
    """`torch.nn`, with its default number of threads."""
    import torch

    inputs, weights = map(torch.from_numpy, case.arrays())
    kinds = {
        "lstm": (torch.nn.LSTM, torch.nn.LSTMCell),
        "gru": (torch.nn.GRU, torch.nn.GRUCell),
        "elman": (torch.nn.RNN, torch.nn.RNNCell),
    }
    layer_kind, cell_kind = kinds[case.cell]
    if case.mode == "step":
        cell, first = cell_kind(case.input_size, case.hidden_size), inputs[:, 0].contiguous()
        zeros = torch.zeros(case.batch, case.hidden_size)
        state = (zeros, zeros) if case.cell == "lstm" else zeros
    else:
        layer = layer_kind(case.input_size, case.hidden_size, batch_first=True)

    def step() -> None:
        with torch.inference_mode():
            cell(first, state)

    def forward() -> None:
        with torch.inference_mode():
            layer(inputs)

    def train() -> None:
        layer.zero_grad()
        (layer(inputs)[0] * weights).sum().backward()

    return {"step": step, "forward": forward, "train": train}[case.mode]


def floor(case: Case) -> Run:
    """One large matrix product; scaled to the case's operations, it shows what the machine can do."""
    del case
    import jax
    import jax.numpy as jnp

    a = jnp.asarray(np.random.default_rng(0).normal(size=FLOOR_SHAPE).astype(np.float32))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))


FLOOR_SHAPE = (1024, 1024)
FLOOR_OPERATIONS = 2 * 1024**3

BUILDERS: dict[str, Callable[[Case], Run | None]] = {
    "flaxrnn": flaxrnn_,
    "linen": linen,
    "linen optimized": lambda case: linen(case, optimized=True),
    "nnx": nnx,
    "nnx optimized": lambda case: nnx(case, optimized=True),
    "haiku": haiku,
    "equinox": equinox,
    "keras": keras,
    "torch": torch,
    "floor": floor,
}
JAX_LIBRARIES = ("linen", "linen optimized", "nnx", "nnx optimized", "haiku", "equinox", "keras")
PACKAGES = {
    "flaxrnn": "flaxrnn",
    "linen": "flax",
    "nnx": "flax",
    "haiku": "dm-haiku",
    "equinox": "equinox",
    "keras": "keras",
    "torch": "torch",
}
