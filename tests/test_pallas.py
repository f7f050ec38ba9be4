"""The TPU kernels in Pallas's interpreter give what `plain` gives; tests/accelerators compiles them."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

import flaxrnn
from flaxrnn.cells import GRU, LSTM, MGU, Elman, Zoneout
from flaxrnn.strategies import Pallas
from flaxrnn.strategies.pallas_blocks import Blocks
from flaxrnn.strategies.pallas_tpu import ARRAYS
from tests.compare import assert_close, normal, random_params
from tests.every import ALL
from tests.test_strategies import OPTIONS, REGULARIZED, RESETS, B, I, T, dtypes, results, to_float
from tests.test_unusual_cells import CELLS as UNUSUAL
from tests.test_unusual_cells import Counts, value_and_gradients
from tests.tiers import tiers

KERNELS = Pallas(interpret=True, steps=4)
DEFAULT = {"lstm_everything", "gru_layer_norm", "own"}

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("name", tiers(ALL, DEFAULT))
def test_agrees_with_plain(name):
    options = OPTIONS["everything"] | {"unroll": 1}
    assert_close(results(ALL[name], KERNELS, **options), results(ALL[name], "plain", **options))


@pytest.mark.parametrize("options", tiers(["whole", "lengths", "mask, reverse", "resets"], {"resets"}))
@pytest.mark.parametrize("name", tiers(["lstm_peephole", "gru", "gru_reset_before", "elman"], {"lstm_peephole"}))
def test_agrees_with_options(name, options):
    assert_close(results(ALL[name], KERNELS, **OPTIONS[options]), results(ALL[name], "plain", **OPTIONS[options]))


@pytest.mark.parametrize("name", tiers(["lstm_everything", "gru_reset_before", "elman"], {"gru_reset_before"}))
def test_agrees_in_bfloat16(name):
    exact_gradients, exact = results(ALL[name], "plain", jnp.float32, **OPTIONS["lengths"])
    like = results(ALL[name], "plain", jnp.bfloat16, **OPTIONS["lengths"])
    gradients, found = results(ALL[name], KERNELS, jnp.bfloat16, **OPTIONS["lengths"])
    assert dtypes((gradients, found)) == dtypes(like)
    assert_close(to_float(found), exact, rtol=0.05)
    if name != "lstm_everything":  # there a rounding at the edge of a clip turns a gradient on or off
        assert_close(to_float(gradients), exact_gradients, rtol=0.25)


@pytest.mark.parametrize("name", tiers(REGULARIZED, {"dropout"}))
def test_agrees_with_dropout(name):
    """Its masks are parameters with a batch axis; zoneout's are projected."""
    options = {"key": jax.random.key(3), "resets": RESETS}
    assert_close(results(REGULARIZED[name], KERNELS, **options), results(REGULARIZED[name], "plain", **options))


@pytest.mark.parametrize("cell", tiers(UNUSUAL, UNUSUAL[:1]), ids=lambda cell: type(cell).__name__)
def test_unusual_cells(cell):
    for options in ({}, {"batch_shape": ()}, {"batch_shape": (2, 3), "reverse": True}):
        if isinstance(cell, Counts):
            with pytest.raises(ValueError, match=r"cannot run Counts.*not floating-point numbers; pass"):
                value_and_gradients(cell, KERNELS, **options)
        else:
            assert_close(value_and_gradients(cell, KERNELS, **options), value_and_gradients(cell, "plain", **options))


def test_dropout_over_two_batch_axes():
    cell, inputs = REGULARIZED["dropout"], jnp.asarray(normal(0, 2, 3, T, I))
    params = random_params(cell, I)

    def gradients(strategy):
        def loss(params, inputs):
            outputs = flaxrnn.scan(cell, params, inputs, key=jax.random.key(0), strategy=strategy)[1]
            return jnp.sum(outputs * normal(1, *outputs.shape))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, inputs)

    assert_close(gradients(KERNELS), gradients("plain"))


@pytest.mark.parametrize("cell", tiers([LSTM(5, peephole=True), GRU(5)], {LSTM(5, peephole=True)}), ids=repr)
def test_the_batch_in_blocks(cell):
    """Of sixteen rows, and 3 left over: then rows are put in that count for nothing."""
    params, inputs, weights = random_params(cell, I), jnp.asarray(normal(0, 35, 6, I)), normal(1, 35, 6, 5)
    mask = jnp.asarray(normal(2, 35, 6) < 0.5)

    def gradients(strategy):
        def loss(params, inputs):
            return jnp.sum(flaxrnn.scan(cell, params, inputs, mask=mask, strategy=strategy)[1] * weights)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, inputs)

    assert_close(gradients(Pallas(interpret=True, vmem_bytes=1_000_000)), gradients("plain"))
    assert "grid=(3" in str(jax.make_jaxpr(lambda: gradients(Pallas(interpret=True, vmem_bytes=1_000_000)))())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm_everything", "gru_layer_norm"])
def test_no_races(name, capsys):
    """As on a TPU: memory that copies come to late, and what has not been written is not a number."""
    strategy = Pallas(interpret=pltpu.InterpretParams(detect_races=True), steps=4)
    try:
        assert_close(
            results(ALL[name], strategy, **OPTIONS["resets"]), results(ALL[name], "plain", **OPTIONS["resets"])
        )
        assert "RACE DETECTED" not in capsys.readouterr().out
    finally:
        pltpu.reset_tpu_interpret_mode_state()


def test_vmap_of_a_gradient():
    cell = LSTM(5, projection_size=3)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, T, I))

    def each(strategy):
        def loss(params, inputs):
            return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, strategy=strategy)[1]))

        return jax.vmap(lambda inputs: jax.grad(loss)(params, inputs))(inputs)

    assert_close(each(KERNELS), each("plain"))


def test_inside_shard_map_and_under_a_mesh():
    cell = GRU(5)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, T, I))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def gradients(strategy):
        def loss(params, inputs):
            return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, strategy=strategy)[1]))

        return jax.grad(loss, argnums=(0, 1))

    def inner(params, inputs):
        d_params, d_inputs = gradients(KERNELS)(params, inputs)
        return d_params, d_inputs

    expected = gradients("plain")(params, inputs)
    data = PartitionSpec("data")
    specs = {"in_specs": (PartitionSpec(), data), "out_specs": (PartitionSpec(), data)}
    assert_close(jax.jit(jax.shard_map(inner, mesh=mesh, **specs))(params, inputs), expected)
    with jax.set_mesh(mesh):
        divided = gradients(dataclasses.replace(KERNELS, mesh_axes=("data",)))
        assert_close(jax.jit(divided)(params, inputs), expected)


def test_what_it_cannot_do_is_told():
    cell, inputs = LSTM(512), jnp.zeros([8, 16, 64])
    with pytest.raises(ValueError, match=r"'pallas' cannot run .*: it is for TPUs, and JAX runs on cpu; pass"):
        flaxrnn.explain(cell, inputs, strategy="pallas")
    small = Pallas(interpret=True, vmem_bytes=2**20)
    with pytest.raises(ValueError, match=r"take \d+\.\d MiB of the chip's own memory, of 1.0 MiB; pass strategy="):
        flaxrnn.explain(cell, inputs, strategy=small)
    params = random_params(Elman(3), I)

    def loss(kernel):
        return jnp.sum(
            flaxrnn.scan(Elman(3), params | {"recurrent_kernel": kernel}, inputs[..., :I], strategy=KERNELS)[1]
        )

    for derivative in (jax.hessian(loss), jax.jacrev(jax.jacrev(loss))):
        with pytest.raises(TypeError, match="pallas strategy has no second derivative: pass strategy='fused'"):
            derivative(params["recurrent_kernel"])
    with pytest.raises(TypeError, match="pallas strategy has no forward-mode derivative: pass strategy='plain'"):
        jax.jvp(loss, (params["recurrent_kernel"],), (params["recurrent_kernel"],))


def test_what_mosaic_cannot_lower_is_told(monkeypatch):
    class Sorted(Elman):
        def gate(self, params, state, projected, recurrent):
            hidden = jnp.sort(projected[0] + recurrent[0])
            return flaxrnn.cells.HiddenState(hidden), hidden

    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for cell in (Elman(128), MGU(128), Zoneout(LSTM(128), hidden_rate=0.1)):
        line = flaxrnn.explain(cell, jnp.zeros([8, 16, 64]), strategy="pallas")
        assert ": pallas, since it was asked for; one kernel for all steps" in line
    with pytest.raises(ValueError, match=r"cannot run Sorted.*Mosaic.*sort.*; pass strategy='auto'"):
        flaxrnn.explain(Sorted(128), jnp.zeros([8, 16, 64]), strategy="pallas")


def test_memory_is_counted_in_tiles():
    blocks = Blocks(time=10, batch=20, steps=4, rows=16)
    assert blocks.grid == (2, 3)
    state, step = jnp.zeros([20, 5]), jnp.zeros([10, 20, 130])
    assert blocks.bytes(state, ARRAYS.state) == 2 * 16 * 128 * 4
    assert blocks.bytes(step, ARRAYS.projected) == 2 * 4 * 16 * 256 * 4
    assert blocks.bytes(jnp.zeros([5, 20]), ARRAYS.kernels) == 8 * 128 * 4
