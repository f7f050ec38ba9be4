"""The nnx modules, and what people have asked Flax's RNNs for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flaxrnn
import flaxrnn.nnx
from flaxrnn.cells import GRU, LSTM, Zoneout
from tests.compare import assert_close, assert_equal, normal, random_state
from tests.every import CELLS
from tests.own_cell import Leaky
from tests.tiers import tiers

B, T, I = 3, 6, 4
INPUTS = jnp.asarray(normal(0, B, T, I))
LENGTHS = np.array([6, 2, 4])


def arrays(module):
    """The parameters of a module as plain nested dicts."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@pytest.mark.parametrize("name", tiers([*CELLS, "own"], {"lstm_everything", "gru", "own"}))
def test_a_module_is_its_layer(name):
    cell = CELLS.get(name, Leaky(5))
    module = flaxrnn.nnx.RNN(cell, I, rngs=nnx.Rngs(0))
    state = random_state(cell, (B,))
    expected = flaxrnn.scan(cell, arrays(module), INPUTS, initial_state=state, lengths=LENGTHS)
    assert_equal(module(INPUTS, initial_state=state, lengths=LENGTHS), expected)


def test_bidirectional_and_stack():
    for module in (
        flaxrnn.nnx.Bidirectional(LSTM(5), GRU(2), I, merge=None, rngs=nnx.Rngs(0)),
        flaxrnn.nnx.Stack([LSTM(5), flaxrnn.Bidirectional(GRU(4), GRU(2)), Leaky(3)], I, rngs=nnx.Rngs(0)),
    ):
        expected = module.layer.apply(arrays(module), INPUTS, lengths=LENGTHS)
        assert_equal(module(INPUTS, lengths=LENGTHS), expected)


def test_jit_grad_split_and_merge():
    module = flaxrnn.nnx.Bidirectional(LSTM(5), GRU(2), I, rngs=nnx.Rngs(0))
    expected = module(INPUTS)
    assert_close(nnx.jit(lambda module, x: module(x))(module, INPUTS), expected, rtol=1e-6)

    graph, state = nnx.split(module)
    assert_equal(nnx.merge(graph, state)(INPUTS), expected)
    assert_close(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, INPUTS), expected, rtol=1e-6)

    gradient = nnx.grad(lambda module: jnp.sum(module(INPUTS)[1] ** 2))(module)
    wanted = jax.grad(lambda params: jnp.sum(module.layer.apply(params, INPUTS)[1] ** 2))(arrays(module))
    assert_close(nnx.to_pure_dict(gradient), wanted, rtol=1e-6)


def test_4713_jit_of_an_rnn():
    """A model with the RNN inside, compiled, with and without an initial state."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = flaxrnn.nnx.RNN(LSTM(5), I, rngs=rngs)
            self.dense = nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x, state=None):
            state, x = self.rnn(x, initial_state=state)
            return state, self.dense(x)

    model = Model(nnx.Rngs(0))
    run = nnx.jit(lambda model, x, state: model(x, state))
    state, _ = run(model, INPUTS, None)
    _, second = run(model, INPUTS, state)
    assert_close(second, model(INPUTS, state)[1], rtol=1e-5)


def test_4151_dropout_within_the_scan():
    module = flaxrnn.nnx.Stack(
        [Zoneout(LSTM(5, hidden_dropout=0.3, recurrent_dropout=0.3), 0.1, 0.2), GRU(5, input_dropout=0.2)],
        I,
        dropout=0.2,
        rngs=nnx.Rngs(0, dropout=1),
    )
    run = nnx.jit(lambda module, x: module(x)[1])
    first, second = run(module, INPUTS), run(module, INPUTS)
    assert np.any(first != second)  # the stream goes on from call to call
    module.eval()
    assert_equal(run(module, INPUTS), run(module, INPUTS))
    assert_close(run(module, INPUTS), module.layer.apply(arrays(module), INPUTS)[1], rtol=1e-6)
    module.train()
    assert np.any(run(module, INPUTS) != run(module, INPUTS))
    fixed = [module(INPUTS, rngs=nnx.Rngs(dropout=7))[1] for _ in range(2)]
    assert_equal(*fixed)

    def scanned(carry, x):
        return carry, module(x, rngs=nnx.Rngs(dropout=3))[1]

    _, outputs = jax.lax.scan(scanned, None, jnp.stack([INPUTS] * 2))
    assert_close(outputs[0], module(INPUTS, rngs=nnx.Rngs(dropout=3))[1], rtol=1e-5)


def test_nothing_draws_random_numbers_where_none_are_needed():
    rngs = nnx.Rngs(0)
    module = flaxrnn.nnx.RNN(LSTM(5), I, rngs=rngs)
    assert not nnx.state(module, nnx.RngState)
    count = rngs.params.count[...]
    module(INPUTS)
    assert rngs.params.count[...] == count == 1


@pytest.mark.slow
def test_a_model_learns():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = flaxrnn.nnx.Stack([LSTM(16), LSTM(16)], 1, dropout=0.1, rngs=rngs)
            self.dense = nnx.Linear(16, 1, rngs=rngs)

        def __call__(self, x):
            state, _ = self.rnn(x)
            return self.dense(state[-1].hidden)[:, 0]

    inputs = jax.random.normal(jax.random.key(0), (64, 10, 1))
    target = inputs[:, 3, 0]
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(inputs) - target) ** 2))(model))

    for _ in range(150):
        step(model, optimizer)
    model.eval()
    assert jnp.mean((model(inputs) - target) ** 2) < 0.3 * jnp.var(target)


def test_partitioning_and_dtypes():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        module = flaxrnn.nnx.RNN(
            LSTM(5), I, dtype=jnp.bfloat16, partitioning={"kernel": (None, "model")}, rngs=nnx.Rngs(0)
        )
    assert module.kernel[...].sharding.spec == jax.sharding.PartitionSpec(None, "model")
    assert module.kernel[...].dtype == jnp.float32
    state, outputs = module(INPUTS)
    assert outputs.dtype == jnp.bfloat16
    assert state.cell.dtype == jnp.float32
    wide = jax.tree.map(lambda field: field.astype(jnp.float32), state)
    assert_equal(module(INPUTS, initial_state=wide), module(INPUTS, initial_state=state))
    both = flaxrnn.nnx.Bidirectional(LSTM(5), GRU(4), I, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    states, _ = both(INPUTS)
    wide = [jax.tree.map(lambda field: field.astype(jnp.float32), state) for state in states]  # a list is taken too
    assert_equal(both(INPUTS, initial_state=wide), both(INPUTS, initial_state=states))


@pytest.mark.parametrize("reverse", [False, True])
def test_options_of_the_layer(reverse):
    module = flaxrnn.nnx.RNN(
        GRU(5, learn_initial_state=True), I, reverse=reverse, include_initial=True, rngs=nnx.Rngs(0)
    )
    assert module.layer == flaxrnn.RNN(GRU(5, learn_initial_state=True), reverse, include_initial=True)
    assert module(INPUTS)[1].shape == (B, T + 1, 5)
    assert module.initial_hidden.shape == (5,)


def test_wrong_use():
    with pytest.raises(TypeError, match=r"the module's cell is the class LSTMCell: pass a flaxrnn cell"):
        flaxrnn.nnx.RNN(nnx.LSTMCell, I, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs has 7 features, but the parameters were made for 4"):
        flaxrnn.nnx.RNN(LSTM(5), I, rngs=nnx.Rngs(0))(jnp.ones((B, T, 7)))
    with pytest.raises(ValueError, match=r"partitioning has 'kernal'"):
        flaxrnn.nnx.RNN(LSTM(5), I, partitioning={"kernal": (None,)}, rngs=nnx.Rngs(0))
