"""`scan` as a function among JAX's: under jit, grad and vmap, compiled once, and one step at a time."""

import dataclasses
import functools
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Cell, LSTMState
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.every import ALL, FEW, SOME
from tests.tiers import tiers

I = 3


@pytest.mark.parametrize("name", tiers(ALL, SOME))
def test_a_loop_of_steps_equals_scan(name):
    cell = ALL[name]
    params, state, inputs = random_params(cell, I), random_state(cell, (2,)), normal(3, 2, 6, I)
    expected = flaxrnn.scan(cell, params, inputs, initial_state=state)
    step, outputs = jax.jit(cell.step), []
    for t in range(6):
        state, output = step(params, state, inputs[:, t])
        outputs.append(output)
    assert_close((state, jnp.stack(outputs, axis=1)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, SOME))
def test_step_fits_lax_scan(name):
    cell = ALL[name]
    params, state, inputs = random_params(cell, I), random_state(cell, (2,)), normal(3, 6, 2, I)
    expected = flaxrnn.scan(cell, params, inputs, initial_state=state, time_major=True)
    assert_close(jax.lax.scan(functools.partial(cell.step, params), state, inputs), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", tiers(sorted(ALL.keys() - {"lstm_clip", "elman_relu"}), {"gru_layer_norm"}))
@pytest.mark.parametrize("variant", ["full", "masked", "reverse"])
def test_gradients_are_those_of_finite_differences(name, variant):
    cell = ALL[name]
    params = random_params(cell, I, dtype=jnp.float64)
    state, inputs = random_state(cell, (2,), dtype=jnp.float64), normal(3, 2, 4, I, dtype=np.float64)
    random = np.random.default_rng(0)
    options = {
        "full": {},
        "masked": {"mask": random.random((2, 4)) < 0.7, "resets": random.random((2, 4)) < 0.3},
        "reverse": {"reverse": True, "lengths": np.array([3, 4])},
    }[variant]

    def run(params, state, inputs):
        return flaxrnn.scan(cell, params, inputs, initial_state=state, **options)

    if name == "lstm_everything":  # no finite difference may cross the edge where a clip begins
        params = jax.tree.map(lambda p: 0.3 * p, params)
        state = jax.tree.map(lambda s: 0.3 * s, state)
    check_grads(run, (params, state, inputs), order=1, modes=("fwd", "rev"), eps=1e-5, atol=1e-7, rtol=1e-7)


@pytest.fixture
def compilations():
    """A list that grows by one with every program that XLA compiles."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
def test_a_second_call_compiles_nothing(name, compilations):
    cell = ALL[name]
    params, inputs = random_params(cell, I), normal(3, 2, 13, I)
    flaxrnn.scan(cell, params, inputs, lengths=np.array([4, 6]))
    assert compilations
    compilations.clear()
    flaxrnn.scan(dataclasses.replace(cell), params, inputs + 1, lengths=np.array([1, 2]))
    assert not compilations


def test_cell_and_layer_are_static_arguments_of_jit(compilations):
    @functools.partial(jax.jit, static_argnames="layer")
    def run(layer, params, inputs):
        return layer.apply(params, inputs)

    def make():
        return flaxrnn.Stack(
            [flaxrnn.Bidirectional(LSTM(4), GRU(5)), flaxrnn.RNN(flaxrnn.cells.make("mgu", hidden_size=3))]
        )

    params, inputs = random_params(make(), I), jnp.asarray(normal(3, 2, 6, I))
    expected = make().apply(params, inputs)
    assert_close(run(make(), params, inputs), expected, rtol=1e-6)
    compilations.clear()
    run(make(), params, inputs)
    assert not compilations


@pytest.mark.parametrize("name", tiers(ALL, FEW))
def test_vmap_over_parameters_and_grad_of_vmap(name):
    """Several networks at once, as an ensemble is."""
    cell = ALL[name]
    ensemble = [random_params(cell, I, seed) for seed in range(3)]
    inputs = jnp.asarray(normal(3, 2, 6, I))

    def loss(params):
        return jnp.sum(flaxrnn.scan(cell, params, inputs)[1] ** 2)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ensemble)
    together = jax.vmap(jax.value_and_grad(loss))(stacked)
    alone = [jax.value_and_grad(loss)(params) for params in ensemble]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_zero_time_steps(name, reverse):
    cell = ALL[name]
    params, state = random_params(cell, I), random_state(cell, (2,))
    inputs, nothing = jnp.zeros((2, 0, I)), np.zeros((2, 0), bool)
    options = {"lengths": np.zeros(2, int), "mask": nothing, "resets": nothing, "reverse": reverse}
    final, outputs = flaxrnn.scan(cell, params, inputs, initial_state=state, **options)
    assert outputs.shape == (2, 0, cell.output_size)
    assert_equal(final, state)


@pytest.mark.parametrize("unroll", [2, 3, 100])
def test_unroll_changes_nothing(unroll):
    cell = LSTM(5)
    params, inputs = random_params(cell, I), normal(3, 2, 7, I)
    assert_close(flaxrnn.scan(cell, params, inputs, unroll=unroll), flaxrnn.scan(cell, params, inputs), rtol=1e-6)


def test_lengths_known_only_under_jit_are_clamped():
    cell = GRU(5)
    params, inputs = random_params(cell, I), normal(3, 2, 6, I)
    run = jax.jit(lambda lengths: flaxrnn.scan(cell, params, inputs, lengths=lengths))
    assert_equal(run(np.array([9, -2])), run(np.array([6, 0])))


@pytest.mark.parametrize("name", tiers(ALL, FEW))
def test_bfloat16_keeps_its_dtypes_and_is_near_float32(name):
    """The LSTM's memory stays in float32. bfloat16 has 8 bits: an entry is off by 1/256, and that adds up."""
    cell = ALL[name]
    params, inputs = random_params(cell, I), jnp.asarray(normal(3, 4, 6, I))
    expected = flaxrnn.scan(cell, params, inputs)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, inputs))
    state, outputs = flaxrnn.scan(cell, *narrow)
    assert outputs.dtype == state.hidden.dtype == jnp.bfloat16
    if isinstance(state, LSTMState):
        assert state.cell.dtype == jnp.float32
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), (state, outputs))
    assert_close(widened, expected, rtol=0.05)

    def loss(params, inputs):
        return jnp.sum(flaxrnn.scan(cell, params, inputs)[1].astype(jnp.float32) ** 2)

    gradient = jax.grad(loss)(*narrow)
    assert {leaf.dtype for leaf in gradient.values()} == {jnp.dtype(jnp.bfloat16)}
    assert_close(jax.tree.map(lambda x: x.astype(jnp.float32), gradient), jax.grad(loss)(params, inputs), rtol=0.25)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
def test_shard_map(name):
    """The loop's carry varies along the mesh from the start, as `shard_map` wants it."""
    cell = ALL[name]
    params, inputs = random_params(cell, I), jnp.asarray(normal(3, 2, 6, I))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()

    def run(params, inputs, lengths):
        return flaxrnn.scan(cell, params, inputs, lengths=lengths)

    mapped = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(whole, split, split), out_specs=split))
    lengths = jnp.array([4, 6])
    assert_close(mapped(params, inputs, lengths), run(params, inputs, lengths), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"elman_relu"}))  # jax.nn.relu itself cannot be pickled
def test_cells_and_layers_can_be_pickled(name):
    layer = flaxrnn.Stack([flaxrnn.Bidirectional(ALL[name], ALL[name])])
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_float64(x64):
    cell = LSTM(5, peephole=True)
    params = random_params(cell, I, dtype=jnp.float64)
    state, outputs = flaxrnn.scan(cell, params, normal(3, 2, 6, I, dtype=np.float64))
    assert state.cell.dtype == state.hidden.dtype == outputs.dtype == jnp.float64


@dataclasses.dataclass(frozen=True)
class Counting(Cell):
    """A cell that counts its steps: not every field of a state is a floating-point number."""

    @property
    def output_size(self):
        return 1

    def init(self, key, input_size, dtype=jnp.float32):
        return {"scale": jnp.ones((1,), dtype)}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return CountState(jnp.zeros(batch_shape, jnp.int32))

    def recur(self, params, state, projected, product):
        count = state.count + 1
        return CountState(count), (count * params["scale"][0]).astype(projected.dtype)[..., None]


class CountState(NamedTuple):
    count: jax.Array


def test_a_state_of_integers():
    params, inputs = Counting().init(jax.random.key(0), I), jnp.asarray(normal(3, 2, 6, I))
    state, outputs = flaxrnn.scan(Counting(), params, inputs, lengths=np.array([4, 6]))
    assert state.count.tolist() == [4, 6]
    assert outputs[0, :, 0].tolist() == [1, 2, 3, 4, 0, 0]
    state, _ = flaxrnn.scan(Counting(), params, inputs, initial_state=state)
    assert state.count.tolist() == [10, 12]
