"""What JAX users do to a scan besides `jit` and `grad`: empty and symbolic shapes, exports, explicit meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn import RNN, Stack
from flaxrnn.cells import GRU, LSTM, Elman, Zoneout
from tests.compare import assert_close, normal, random_params, random_state
from tests.processes import run_python

I, H = 3, 4


@pytest.mark.parametrize("strategy", ["auto", *sorted(flaxrnn.STRATEGIES.keys() - {"pallas"})])
@pytest.mark.parametrize("cell", [LSTM(H), GRU(H)], ids=repr)
def test_an_empty_batch(cell, strategy):
    params = random_params(cell, I)

    def loss(params, inputs, lengths):
        state, outputs = flaxrnn.scan(cell, params, inputs, lengths=lengths, strategy=strategy)
        return jnp.sum(outputs) + jnp.sum(state.hidden), (state, outputs)

    for lengths in (None, jnp.zeros([0], int)):
        gradient, (state, outputs) = jax.grad(loss, has_aux=True)(params, jnp.zeros([0, 5, I]), lengths)
        assert state.hidden.shape == (0, H)
        assert outputs.shape == (0, 5, H)
        assert not any(np.any(leaf) for leaf in gradient.values())


def test_symbolic_shapes_run_under_auto():
    cell = LSTM(H)
    params = random_params(cell, I)
    run = jax.jit(lambda inputs: flaxrnn.scan(cell, params, inputs))
    for symbols in ("b, t", "b, 7", "4, t"):
        shape = jax.export.symbolic_shape(f"{symbols}, {I}")
        exported = jax.export.export(run)(jax.ShapeDtypeStruct(shape, jnp.float32))
        restored = jax.export.deserialize(exported.serialize())  # the state is a NamedTuple that it must know
        inputs = jnp.asarray(normal(0, 4, 7, I))
        assert_close(restored.call(inputs), run(inputs))
        assert type(restored.call(inputs)[0]) is type(cell.initial_state())


def test_symbolic_shapes_of_what_goes_with_the_sequence():
    cell = Zoneout(LSTM(H), hidden_rate=0.1)
    params, key = random_params(cell, I), jax.random.key(0)
    run = jax.jit(lambda inputs, resets: flaxrnn.scan(cell, params, inputs, resets=resets, reverse=True, key=key))
    batch, time = jax.export.symbolic_shape("b, t")
    shapes = jax.ShapeDtypeStruct((batch, time, I), jnp.float32), jax.ShapeDtypeStruct((batch, time), bool)
    exported = jax.export.export(run)(*shapes)
    inputs, resets = jnp.asarray(normal(0, 4, 7, I)), jnp.asarray(normal(1, 4, 7) > 0)
    assert_close(exported.call(inputs, resets), run(inputs, resets))


@pytest.mark.parametrize(("strategy", "symbols"), [("fused", "b, t"), ("checkpointed", "2, t")])
def test_symbolic_shapes_are_refused_by_strategies_that_cut(strategy, symbols):
    cell = GRU(H)
    params = random_params(cell, I)
    run = jax.jit(lambda inputs: flaxrnn.scan(cell, params, inputs, strategy=strategy))
    shape = jax.export.symbolic_shape(f"{symbols}, {I}")
    with pytest.raises(ValueError, match=f"strategy '{strategy}' cannot run GRU.*needs to know the size.*'auto'"):
        jax.export.export(run)(jax.ShapeDtypeStruct(shape, jnp.float32))


def explicit_mesh():
    """Run in a process with four devices: scans on a mesh with explicit axes, as `jax.make_mesh` gives them."""
    jax.config.update("jax_disable_most_optimizations", True)  # many small programs, each run once
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    for cell in (LSTM(H, peephole=True), GRU(H, reset_after=False), Elman(H)):
        params, inputs, state = random_params(cell, I), normal(0, 4, 11, I), random_state(cell, (4,))

        def loss(params, inputs, state, cell=cell, strategy="plain"):
            state, outputs = flaxrnn.scan(cell, params, inputs, initial_state=state, strategy=strategy)
            return jnp.sum(jnp.sin(outputs)) + jnp.sum(state.hidden)

        expected = jax.value_and_grad(loss, (0, 1))(params, inputs, None), jax.grad(loss)(params, inputs, state)
        for strategy in ("auto", "plain", "checkpointed"):
            with jax.set_mesh(mesh):
                sharded = jax.device_put((inputs, state), rows)
                own = functools.partial(loss, strategy=strategy)
                found = (
                    jax.jit(jax.value_and_grad(own, (0, 1)))(params, sharded[0], None),
                    jax.jit(jax.grad(own))(params, *sharded),
                )
            assert_close(jax.device_get(found), jax.device_get(expected))
        with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"fused.*the mesh of jax.set_mesh has explicit axes"):
            loss(params, jax.device_put(inputs, rows), None, strategy="fused")
    explicit_mesh_options(mesh, rows)
    print("agree")


def explicit_mesh_options(mesh, rows):
    """What goes with the sequence is made without a sharding, or is given as NumPy's."""
    inputs, lengths, marks = normal(0, 4, 5, I), np.array([5, 2, 0, 3]), normal(1, 4, 5) > 0
    layers = {
        RNN(GRU(H), reverse=True): ({"resets": marks, "lengths": lengths}, {"mask": marks}),
        RNN(GRU(H), include_initial=True): ({},),
        RNN(GRU(H), reverse=True, include_initial=True): ({"lengths": lengths},),
        RNN(Zoneout(LSTM(H, input_dropout=0.1), 0.1, 0.2)): ({"key": jax.random.key(0)},),
        Stack([RNN(LSTM(H, learn_initial_state=True))] * 2, dropout=0.1): ({"key": jax.random.key(0)},),
    }
    for layer, each in layers.items():
        params = random_params(layer, I)
        for options in each:
            expected = layer.apply(params, inputs, **options)
            with jax.set_mesh(mesh):
                found = jax.jit(functools.partial(layer.apply, **options))(params, jax.device_put(inputs, rows))
            assert_close(jax.device_get(found), jax.device_get(expected))


def test_a_mesh_with_explicit_axes():
    done = run_python("from tests.test_transformations import explicit_mesh; explicit_mesh()", devices=4)
    assert done.stdout.endswith("agree\n"), done.stdout + done.stderr
