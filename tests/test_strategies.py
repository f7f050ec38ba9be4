"""Every strategy gives what `plain` gives: outputs, final state, and every gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flaxrnn
from flaxrnn import cells
from flaxrnn._explain import sequence_of
from flaxrnn.cells import GRU, LSTM, Elman, Zoneout
from flaxrnn.layers import LayerCell
from flaxrnn.strategies import Checkpointed, Fused
from flaxrnn.strategies.auto import choose
from flaxrnn.strategies.segments import segment_length
from tests.compare import assert_close, normal, random_params, random_state
from tests.every import ALL, NOT_NATIVE
from tests.own_cell import Leaky
from tests.tiers import tiers

B, T, I = 2, 11, 3  # a prime number of steps: no segments come out even
OTHERS = sorted(flaxrnn.STRATEGIES.keys() - {"plain", "pallas"})  # that one: test_pallas.py
PORTABLE = sorted(set(OTHERS) - {"native"})  # those that run any cell in any dtype
RANDOM = np.random.default_rng(0)
MASK, RESETS = jnp.asarray(RANDOM.random((B, T)) < 0.7), jnp.asarray(RANDOM.random((B, T)) < 0.3)
MANY_RESETS = jnp.asarray(RANDOM.random((B, T)) < 0.5)  # RESETS are all masked in what follows
OPTIONS = {
    "whole": {},
    "lengths": {"lengths": jnp.array([4, 11])},
    "mask, reverse": {"mask": MASK, "reverse": True},
    "resets": {"resets": RESETS},
    "everything": {"mask": MASK, "resets": MANY_RESETS, "lengths": jnp.array([10, 7]), "reverse": True, "unroll": 2},
}
REGULARIZED = {
    "dropout": LSTM(5, peephole=True, input_dropout=0.3, hidden_dropout=0.3, recurrent_dropout=0.3),
    "dropout, reset before": GRU(5, reset_after=False, hidden_dropout=0.3, recurrent_dropout=0.3),
    "zoneout": Zoneout(GRU(5, input_dropout=0.2), hidden_rate=0.3),
}


CUTS = {
    "one segment, kept": Fused(),
    "segments, kept": Fused(segment_bytes=4 * B * 20 * 4),
    "segments, computed again": Fused(segment_bytes=4 * B * 20 * 4, keep_bytes=0),
}
"""The ways in which `fused` goes through a sequence; these are too short for it to choose another by itself."""


def results(cell, strategy, dtype=jnp.float32, **options):
    """The gradients of a loss, by parameters, inputs and initial state, and the `(state, outputs)` that it is of."""
    params = jax.tree.map(lambda p: p.astype(dtype), random_params(cell, I))  # the same numbers in every dtype
    inputs = jnp.asarray(normal(0, B, T, I), dtype)
    weights = jnp.asarray(normal(1, B, T, cell.output_size))

    def loss(params, inputs, state):
        state, outputs = flaxrnn.scan(cell, params, inputs, initial_state=state, strategy=strategy, **options)
        total = jnp.sum(outputs * weights) + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(state))
        return total, (state, outputs)

    like = cell.initial_state((B,), dtype)
    state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), random_state(cell, (B,)), like)
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, inputs, state)


def others(name):
    """The strategies besides plain that run one of `ALL`."""
    return PORTABLE if name in NOT_NATIVE else OTHERS


def to_float(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


@pytest.mark.parametrize("name", tiers(ALL, {"elman", "gru", "own"}))  # all options at once: in float64, below
def test_agrees_with_plain(name):
    expected = results(ALL[name], "plain")
    for strategy in others(name):
        assert_close(results(ALL[name], strategy), expected)


@pytest.mark.parametrize("options", ["lengths", "resets"])
@pytest.mark.parametrize("name", tiers(["elman", "lstm_everything", "gru_reset_before", "gru_layer_norm"], {"elman"}))
def test_agrees_with_options(name, options):
    expected = results(ALL[name], "plain", **OPTIONS[options])
    for strategy in others(name):
        assert_close(results(ALL[name], strategy, **OPTIONS[options]), expected)


@pytest.mark.parametrize(
    "name", tiers(["elman", "lstm_everything", "gru", "gru_reset_before_layer_norm", "zoneout", "own"], {"gru"})
)
def test_agrees_however_it_is_cut(name):
    for options in ({}, OPTIONS["everything"]):
        expected = results(ALL[name], "plain", **options)
        for strategy in (*CUTS.values(), Checkpointed(segments=3)):
            assert_close(results(ALL[name], strategy, **options), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", tiers(ALL, {"lstm_everything", "gru_reset_before_layer_norm", "zoneout"}))
def test_agrees_in_float64(name):
    expected = results(ALL[name], "plain", jnp.float64, **OPTIONS["everything"])
    for strategy in PORTABLE:
        assert_close(results(ALL[name], strategy, jnp.float64, **OPTIONS["everything"]), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "name", tiers(["elman", "lstm_everything", "gru", "gru_reset_before", "lstm_layer_norm", "zoneout"], {"gru"})
)
def test_agrees_in_bfloat16(name):
    exact_gradients, exact = results(ALL[name], "plain", jnp.float32, **OPTIONS["lengths"])
    like = results(ALL[name], "plain", jnp.bfloat16, **OPTIONS["lengths"])
    for strategy in PORTABLE:
        gradients, found = results(ALL[name], strategy, jnp.bfloat16, **OPTIONS["lengths"])
        assert dtypes((gradients, found)) == dtypes(like)
        assert_close(to_float(found), exact, rtol=0.05)
        if name != "lstm_everything":  # there a rounding at the edge of a clip turns a gradient on or off
            assert_close(to_float(gradients), exact_gradients, rtol=0.25)


@pytest.mark.parametrize("name", tiers(REGULARIZED, {"dropout"}))
def test_agrees_with_dropout(name):
    options = {"key": jax.random.key(3), "resets": RESETS}
    expected = results(REGULARIZED[name], "plain", **options)
    for strategy in PORTABLE if name == "zoneout" else OTHERS:
        assert_close(results(REGULARIZED[name], strategy, **options), expected)


@pytest.mark.parametrize("strategy", PORTABLE)
def test_a_cell_without_gates(strategy):
    """One whose `recur` makes its product itself, so that the strategy knows nothing of its weights."""

    class Alone(Elman):
        def recur(self, params, state, projected, product):
            return super().recur(params, state, projected, cells.MatrixProducts(self, params))

    assert flaxrnn.explain(Alone(5), jnp.zeros([B, T, I])).startswith("Alone(hidden_size=5): plain, since Alone.recur")
    assert_close(results(Alone(5), strategy), results(Elman(5), "plain"))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("strategy", PORTABLE)
@pytest.mark.parametrize("name", tiers(["elman", "lstm_everything", "gru", "gru_reset_before", "own"], {"gru"}))
def test_gradients_are_those_of_finite_differences(name, strategy):
    cell = ALL[name]
    params = jax.tree.map(lambda p: 0.3 * p, random_params(cell, I, dtype=jnp.float64))
    inputs, state = jnp.asarray(normal(0, B, T, I, dtype=np.float64)), random_state(cell, (B,), dtype=jnp.float64)

    def run(params, inputs, state):
        return flaxrnn.scan(cell, params, inputs, initial_state=state, strategy=strategy, **OPTIONS["mask, reverse"])

    check_grads(run, (params, inputs, state), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("strategy", tiers(OTHERS, {"fused"}))
@pytest.mark.parametrize("cell", tiers([LSTM(3), GRU(3, reset_after=False)], {LSTM(3)}), ids=repr)
def test_second_derivatives(cell, strategy):
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, T, I))

    def loss(kernel, strategy):
        return jnp.sum(flaxrnn.scan(cell, params | {"recurrent_kernel": kernel}, inputs, strategy=strategy)[1] ** 2)

    expected = jax.hessian(loss)(params["recurrent_kernel"], "plain")
    assert_close(jax.hessian(loss)(params["recurrent_kernel"], strategy), expected, rtol=1e-4)
    twice = jax.jacrev(jax.jacrev(loss))(params["recurrent_kernel"], strategy)
    assert_close(twice, expected, rtol=1e-4)


@pytest.mark.parametrize("strategy", OTHERS)
def test_forward_mode_says_which_strategy_to_choose(strategy):
    cell = GRU(3)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, T, I))

    def run(params, strategy):
        return flaxrnn.scan(cell, params, inputs, strategy=strategy)[1]

    with pytest.raises(TypeError, match=f"{strategy} strategy has no forward-mode derivative: pass strategy='plain'"):
        jax.jvp(lambda params: run(params, strategy), (params,), (params,))
    with pytest.raises(TypeError, match=f"{strategy} strategy has no forward-mode derivative: pass strategy='plain'"):
        jax.jvp(jax.jit(lambda params: run(params, strategy)), (params,), (params,))
    with pytest.raises(TypeError, match=f"{strategy} strategy has no forward-mode derivative: pass strategy='plain'"):
        jax.jacfwd(lambda params: run(params, strategy))(params)
    jax.jvp(lambda params: run(params, "plain"), (params,), (params,))


@pytest.mark.parametrize("strategy", OTHERS)
def test_vmap_of_a_gradient(strategy):
    """The gradient for each member of the batch on its own."""
    cell = LSTM(5, projection_size=3)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, T, I))

    def loss(params, inputs, strategy):
        return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, strategy=strategy)[1]))

    def each(strategy):
        return jax.vmap(lambda inputs: jax.grad(loss)(params, inputs, strategy))(inputs)

    assert_close(each(strategy), each("plain"))


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("time", [0, 1])
def test_no_step_and_one_step(strategy, time):
    cell = LSTM(5)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, B, time, I))

    def run(strategy):
        return flaxrnn.scan(cell, params, inputs, initial_state=random_state(cell, (B,)), strategy=strategy)

    assert_close(run(strategy), run("plain"))


@pytest.mark.parametrize("strategy", ["plain", *OTHERS])
def test_compiled_once_for_a_shape(strategy):
    compiled = flaxrnn._scan._scan
    cell = GRU(7)
    params = random_params(cell, I)
    before = compiled._cache_size()
    for seed in range(3):
        flaxrnn.scan(cell, params, normal(seed, B, T, I), lengths=jnp.array([seed, 3]), strategy=strategy)
    assert compiled._cache_size() == before + 1


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("name", tiers(["lstm", "gru"], {"gru"}))
def test_no_more_than_it_needs_is_kept(name, strategy):
    """Of the gradient's memory: less than plain's, and for `checkpointed` far less, in a sequence of 1,024 steps."""
    cell = {"lstm": LSTM(32), "gru": GRU(32)}[name]
    params, inputs = random_params(cell, I), jnp.zeros([16, 1024, I])

    def memory(strategy):
        def loss(params):
            return jnp.sum(flaxrnn.scan(cell, params, inputs, strategy=strategy)[0].hidden)

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert memory(strategy) < {"fused": 1.0, "native": 1.0, "checkpointed": 0.5}[strategy] * memory("plain")


def choice(cell, time, *batch_shape, backend="cpu"):
    inputs = jax.ShapeDtypeStruct((*batch_shape, time, I), "float32")
    return choose("auto", sequence_of(LayerCell(cell, I), inputs), backend).strategy.name


def test_what_auto_chooses(monkeypatch):
    assert choice(LSTM(256), 256, 32) == choice(Leaky(128), 28, 128) == "native", "worth a build"
    assert choice(LSTM(256, layer_norm=True), 256, 32) == "fused", "no kernel"
    monkeypatch.setenv("FLAXRNN_NATIVE", "0")
    assert choice(LSTM(256), 256, 32) == "fused"
    assert choice(LSTM(128), 28, 32) == "fused"
    assert choice(LSTM(128), 28, 128) == choice(GRU(128), 28, 128) == "plain", "a short sequence of large steps"
    assert choice(Zoneout(GRU(128), 0.1), 28, 128) == "plain"
    assert choice(Elman(128), 28, 128) == "fused", "these steps are a quarter of the LSTM's"
    assert choice(LSTM(128), 28, 128, backend="gpu") == choice(LSTM(128), 28, 128, backend="tpu") == "fused"
    assert choice(LSTM(512), 128, 64, backend="gpu") == "fused"
    assert choice(LSTM(512), 128, 64, backend="tpu") == choice(GRU(512), 128, 64, backend="tpu") == "plain"
    assert choice(Elman(512), 128, 64, backend="tpu") == "fused", "its steps are a quarter of the LSTM's"
    assert choice(LSTM(128), 784, 128) == "fused"
    assert choice(LSTM(128, projection_size=8), 28, 128) == "plain", "a step is as large as its gates"
    assert choice(GRU(128), 4, 2) == "plain", "a few steps"
    assert choice(Leaky(16), 100, 8) == choice(Zoneout(GRU(16), 0.1), 100, 8) == "fused"


def test_segments_and_turns_by_backend(monkeypatch):
    """By the compilers' figures: little data at a time on a TPU, but no cut into two; few turns of a loop on a GPU."""

    def plan(backend, time, batch):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        inputs = jax.ShapeDtypeStruct((batch, time, I), "float32")
        plan, length = Fused()._plan(sequence_of(LayerCell(LSTM(128), I), inputs))
        return length, plan.unroll

    assert plan("tpu", 28, 128) == (28, 1), "7 MiB"
    assert plan("tpu", 784, 128) == (16, 1), "196 MiB, in segments of 4"
    assert plan("cpu", 28, 128) == (7, 1)
    assert plan("gpu", 784, 128) == (784, 4)
    assert plan("gpu", 15, 128) == (15, 1), "a loop of few turns would be unrolled as a whole"


def test_auto_runs_what_it_chooses():
    cell = GRU(4)
    params = random_params(cell, I)

    def lower(strategy, time):
        scan = jax.jit(lambda inputs: flaxrnn.scan(cell, params, inputs, strategy=strategy))
        return scan.lower(jnp.zeros([B, time, I])).as_text()

    assert lower("auto", 28) == lower("fused", 28) != lower("plain", 28)
    assert lower("auto", 3) == lower("plain", 3) != lower("fused", 3)


def test_explain():
    layer = flaxrnn.Stack([flaxrnn.Bidirectional(LSTM(4), GRU(8)), flaxrnn.RNN(Elman(16))])
    lines = flaxrnn.explain(layer, jnp.zeros([2, 50, 3])).splitlines()
    chosen = [line for line in lines if not line.startswith(" ")]
    assert [line.split(":")[0] for line in chosen] == [
        "LSTM(hidden_size=4)",
        "GRU(hidden_size=8)",
        "Elman(hidden_size=16)",
    ]
    assert all(": fused, since larger" in line for line in chosen)
    assert [line.split(":")[0] for line in lines[1:5]] == ["  plain", "  native", "  checkpointed", "  pallas"]
    assert lines[4] == "  pallas: cannot run it: it is for TPUs, and JAX runs on cpu"
    inputs = jax.ShapeDtypeStruct((2, 10_000, 3), "float32")
    line = flaxrnn.explain(LSTM(4), inputs, strategy="checkpointed")
    assert re.search(r"checkpointed, since it was asked for; 100 segments of 100 steps, each run again", line)
    with pytest.raises(ValueError, match="no strategy 'fast'"):
        flaxrnn.explain(LSTM(4), inputs, strategy="fast")
    with pytest.raises(TypeError, match="pass a flaxrnn"):
        flaxrnn.explain(flaxrnn, inputs)


@pytest.mark.parametrize(
    ("time", "longest", "length"), [(28, 14, 14), (28, 15, 14), (11, 4, 4), (8192, 91, 64), (7, 100, 7), (5, 0, 1)]
)
def test_segment_length(time, longest, length):
    assert segment_length(time, longest) == length
