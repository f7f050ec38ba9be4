"""The native strategy: its arithmetic, its fallbacks, and the compiler on the user's machine."""

import dataclasses
import functools
import os
import pathlib
import platform
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, Elman, GatedCell, HiddenState, Zoneout
from flaxrnn.native import build
from flaxrnn.native.generate import source
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.every import ALL
from tests.own_cell import Leaky
from tests.tiers import tiers

I = 3
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -1e-30, 1e30, -1e30, 88.0, -88.0, 9.0, -9.0, 3e-30, 0.5, -0.5, 1.0, 2.0]
)


@dataclasses.dataclass(frozen=True)
class Arithmetic(GatedCell):
    """The hidden state is a function of the projection; the recurrent product plays no part in its value."""

    function: object = None

    gates = ("candidate",)

    def gate(self, params, state, projected, recurrent):
        hidden = self.function(projected[0]) + jnp.where(recurrent[0] > 1e38, recurrent[0], 0)
        return HiddenState(hidden), hidden


FUNCTIONS = {
    "arithmetic": lambda x: (2 * x - x / 3 + 1) / (1 + jnp.abs(x)) - 0.5 * jnp.square(x),
    "powers": lambda x: x**2 + x**3 - 1 / x**2 + jnp.abs(x) ** 0.7,
    "exponentials": lambda x: jnp.exp(x) + jnp.expm1(x) * jnp.exp2(x),
    "logarithms": lambda x: jnp.log(x) + jnp.log1p(x),
    "roots": lambda x: jnp.sqrt(x) + jax.lax.rsqrt(x),
    "circles": lambda x: jnp.where(jnp.abs(x) < 100, jnp.sin(x) + jnp.cos(x) * jnp.arctan(x), x),
    "hyperbolic": lambda x: jnp.tanh(x) * jax.nn.sigmoid(x) + jnp.sinh(x) * jnp.cosh(x),
    "minimum and maximum": lambda x: jnp.maximum(x, 0.3) + jnp.minimum(x, -0.2) + jnp.clip(x, -1, 2) + jnp.sign(x),
    "choices": lambda x: jnp.where((x > 0) & ~(x >= 1) | (x == 2), x, jnp.where(jnp.isfinite(x), -x, 7.0)),
    "rounding": lambda x: jnp.floor(x) + jnp.ceil(x),
    "error function": jax.lax.erf,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "leaky relu": jax.nn.leaky_relu,
    "hard tanh": jax.nn.hard_tanh,
    "soft sign": jax.nn.soft_sign,
}


@pytest.mark.parametrize(
    "name", tiers(FUNCTIONS, {"arithmetic", "choices", "minimum and maximum", "hyperbolic", "gelu"})
)
def test_each_primitive_is_that_of_jax(name):
    """Values and derivatives, NaN, infinities and large numbers among them; the features do not fill a vector."""
    function = FUNCTIONS[name]
    cell = Arithmetic(21, function=function)
    points = np.concatenate([SPECIAL, np.linspace(-6, 6, 5 * 21 - len(SPECIAL))]).astype(np.float32)
    params = {"kernel": jnp.zeros((1, 21)), "recurrent_kernel": jnp.zeros((21, 21))}
    found = []
    for row in points.reshape(5, 21):  # in the bias, since an infinity in a product makes all of it NaN

        def outputs(bias):
            return flaxrnn.scan(cell, params | {"bias": bias}, jnp.zeros((1, 1, 1)), strategy="native")[1][0, 0]

        value, pull = jax.vjp(outputs, jnp.asarray(row))
        found.append((value, pull(jnp.ones(21))[0]))
    value, gradient = (np.concatenate(parts) for parts in zip(*found, strict=True))
    points = jnp.asarray(points)
    np.testing.assert_allclose(value, function(points), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, jax.vmap(jax.grad(function))(points), rtol=1e-5, atol=1e-5)


def test_a_cell_of_four_lines_in_a_large_batch():
    """Several rows for each thread, features that are no multiple of a vector, and a batch of two axes."""
    cell = Leaky(37)
    params, inputs = random_params(cell, 5), jnp.asarray(normal(0, 3, 17, 9, 5))

    def loss(params, inputs, strategy, **options):
        state, outputs = flaxrnn.scan(cell, params, inputs, strategy=strategy, **options)
        return jnp.sum(jnp.sin(3 * outputs)) + jnp.sum(state.hidden), (state, outputs)

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnames=("strategy", "time_major"))
    for options in ({}, {"lengths": jnp.arange(51).reshape(3, 17) % 10}):
        assert_close(run(params, inputs, "native", **options), run(params, inputs, "plain", **options))
    swapped = run(params, jnp.moveaxis(inputs, 2, 0), "native", time_major=True)
    assert_close(swapped[0][0], run(params, inputs, "plain")[0][0])


OPTIONS = {
    "without biases": GRU(5, use_bias=False),
    "a learned initial state": LSTM(5, learn_initial_state=True, peephole=True),
    "another activation": Elman(5, activation=jax.nn.gelu),
    "as wide as its projection": LSTM(5, projection_size=5),
    "one feature": GRU(1, reset_after=False),
}


@pytest.mark.parametrize("name", tiers(OPTIONS, {"a learned initial state", "one feature"}))
def test_options_of_cells(name):
    cell = OPTIONS[name]
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 2, 6, I))
    resets = jnp.asarray(normal(1, 2, 6) > 0.5)

    def loss(params, inputs, strategy):
        state, outputs = flaxrnn.scan(cell, params, inputs, resets=resets, reverse=True, strategy=strategy)
        return jnp.sum(jnp.sin(outputs)) + sum(map(jnp.sum, state))

    run = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnames="strategy")
    assert_close(run(params, inputs, "native"), run(params, inputs, "plain"))


@pytest.mark.parametrize(
    "cell", tiers([LSTM(70), GRU(70), GRU(70, reset_after=False), LSTM(70, projection_size=40)], {LSTM(70)}), ids=repr
)
@pytest.mark.parametrize("batch", [(), (40,)], ids=["one sequence", "40 sequences"])
def test_all_threads(cell, batch):
    """Sequences long enough for the threads to share their features, and a batch large enough to be cut."""
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, *batch, 150, I))
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    weights = jnp.asarray(normal(1, cell.output_size))

    def loss(params, inputs, state, strategy):
        state, outputs = flaxrnn.scan(cell, params, inputs, initial_state=state, strategy=strategy)
        return jnp.sum(outputs @ weights), state

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnames="strategy")
    state = random_state(cell, batch)
    assert_close(run(params, inputs, state, "native"), run(params, inputs, state, "plain"), rtol=3e-5)


def test_nan_stays_nan_and_stays_where_it_is():
    cell = LSTM(20)
    params, inputs = random_params(cell, I), normal(0, 4, 6, I)
    inputs[1, 2, 0] = np.nan
    _, outputs = flaxrnn.scan(cell, params, jnp.asarray(inputs), strategy="native")
    assert np.isnan(outputs[1, 2:]).all()
    assert np.isfinite(np.delete(outputs, 1, 0)).all()
    assert np.isfinite(outputs[1, :2]).all()


def test_vmap_over_inputs_is_one_larger_batch():
    cell = GRU(5)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 4, 2, 6, I))

    def loss(params, inputs, strategy):
        each = jax.vmap(lambda inputs: flaxrnn.scan(cell, params, inputs, strategy=strategy)[1])
        return jnp.sum(jnp.sin(each(inputs)))

    gradient = jax.jit(jax.grad(loss), static_argnames="strategy")
    assert_close(gradient(params, inputs, "native"), gradient(params, inputs, "plain"))
    text = gradient.lower(params, inputs, "native").as_text()
    assert text.count("@flaxrnn_native(") == 2, "one call forward, one backward"
    assert "stablehlo.while" not in text


def test_vmap_over_parameters_and_of_everything():
    cell = LSTM(5)
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(random_params(cell, I, seed=seed) for seed in range(3)))
    inputs = jnp.asarray(normal(0, 3, 2, 6, I))

    def loss(params, inputs, strategy):
        return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, lengths=jnp.array([4, 6]), strategy=strategy)[1]))

    for axes in ((0, None), (0, 0), (None, 0)):
        args = many if axes[0] == 0 else jax.tree.map(lambda leaf: leaf[0], many), inputs if axes[1] == 0 else inputs[0]
        found, expected = (
            jax.vmap(jax.value_and_grad(functools.partial(loss, strategy=strategy), (0, 1)), axes)(*args)
            for strategy in ("native", "plain")
        )
        assert_close(found, expected)


def test_an_exported_program_has_no_kernel_in_it():
    """It may run where there is none."""
    cell = GRU(5)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 2, 6, I))
    run = jax.jit(lambda inputs: flaxrnn.scan(cell, params, inputs, strategy="native")[1])
    exported = jax.export.export(run)(inputs)
    assert "flaxrnn_native" not in exported.mlir_module()
    assert_close(jax.export.deserialize(exported.serialize()).call(inputs), run(inputs))


def test_without_jit_and_with_checks_for_nan():
    cell = GRU(5)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 2, 6, I))
    gradient = jax.grad(lambda params: jnp.sum(flaxrnn.scan(cell, params, inputs, strategy="native")[1] ** 2))
    expected = gradient(params)
    with jax.disable_jit():
        assert_close(gradient(params), expected)
    with jax.debug_nans(True):
        assert_close(gradient(params), expected)
        with pytest.raises(FloatingPointError):
            flaxrnn.scan(cell, params, inputs.at[0, 0, 0].set(jnp.nan), strategy="native")


def test_checkpoint_and_scan_around_it():
    cell = GRU(5)
    params, inputs = random_params(cell, 5), jnp.asarray(normal(0, 3, 2, 6, 5))

    def loss(params, strategy):
        @jax.checkpoint
        def layer(x, more):
            return flaxrnn.scan(cell, params, x + more, strategy=strategy)[1], None

        return jnp.sum(jax.lax.scan(layer, inputs[0], inputs)[0] ** 2)

    assert_close(jax.grad(loss)(params, "native"), jax.grad(loss)(params, "plain"))


def test_results_do_not_depend_on_chance():
    cell = LSTM(40)
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 33, 20, I))
    run = jax.jit(jax.grad(lambda params: jnp.sum(flaxrnn.scan(cell, params, inputs, strategy="native")[1] ** 2)))
    assert_equal(run(params), run(params))


# ---- what it refuses


@dataclasses.dataclass(frozen=True)
class Looks(Leaky):
    """A cell that a kernel cannot run."""

    how: str = ""

    def gate(self, params, state, projected, recurrent):
        _, output = super().gate(params, state, projected, recurrent)
        if self.how == "sum":
            output = output - jnp.mean(output, axis=-1, keepdims=True)
        if self.how == "neighbour":
            output = jnp.roll(output, 1, axis=-1)
        if self.how == "primitive":
            output = jax.lax.lgamma(output)
        if self.how == "constant":
            output = output * jnp.arange(self.hidden_size, dtype=jnp.float32)
        if self.how == "integers":
            output = output + output.astype(jnp.int32)
        return HiddenState(output), output


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Looks(5, how="sum"), "reduce_sum operates along the feature axis"),
        (Looks(5, how="neighbour"), "operates along the feature axis"),
        (Looks(5, how="primitive"), "lgamma is not a supported elementwise operation"),
        (
            Looks(5, how="constant"),
            "iota is not a supported|a constant that differs from feature to feature",
        ),
        (Looks(5, how="integers"), "convert_element_type gives int32"),
        (LSTM(5, layer_norm=True), "layer normalization operates along the feature axis"),
        (Zoneout(GRU(5), 0.1), "Zoneout is not a GatedCell"),
    ],
    ids=str,
)
def test_what_it_cannot_run_is_named(cell, reason):
    inputs = jax.ShapeDtypeStruct((64, 100, I), jnp.float32)
    with pytest.raises(ValueError, match=rf"strategy 'native' cannot run.*({reason}).*; pass strategy='auto'"):
        flaxrnn.explain(cell, inputs, strategy="native")
    assert "  native: cannot run it: " in flaxrnn.explain(cell, inputs)


def test_other_dtypes_and_several_devices_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="it computes in float32 only, and some arrays are bfloat16"):
        flaxrnn.explain(GRU(5), jax.ShapeDtypeStruct((2, 6, I), jnp.bfloat16), strategy="native")
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    with pytest.raises(ValueError, match="a kernel cannot be spread over several devices"):
        flaxrnn.explain(GRU(5), jax.ShapeDtypeStruct((2, 6, I), jnp.float32), strategy="native")


# ---- the compiler

LARGE = jax.ShapeDtypeStruct((64, 100, 64), jnp.float32)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of one's own, and nothing remembered of what was built or failed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.forget()
    yield tmp_path / "flaxrnn" / "native"
    build.forget()


def falls_back(cell):
    """Runs a cell of its own under "native", whose kernel cannot be built: the result is right all the same."""
    params, inputs = random_params(cell, I), jnp.asarray(normal(0, 2, 6, I))

    def loss(params, strategy):
        return jnp.sum(flaxrnn.scan(cell, params, inputs, strategy=strategy)[1] ** 2)

    assert_close(*(jax.grad(loss)(params, strategy) for strategy in ("native", "plain")))


def test_no_compiler(monkeypatch, empty_cache):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    lines = flaxrnn.explain(LSTM(64), LARGE)
    assert lines.startswith("LSTM(hidden_size=64): fused")
    assert "native: cannot run it: no C++ compiler was found (looked for c++, g++, clang++; CXX names another)" in lines


def test_switched_off(monkeypatch):
    monkeypatch.setenv("FLAXRNN_NATIVE", "0")
    assert "native: cannot run it: FLAXRNN_NATIVE is 0" in flaxrnn.explain(LSTM(64), LARGE)


def test_explain_builds_nothing(empty_cache):
    assert flaxrnn.explain(LSTM(64), LARGE).startswith("LSTM(hidden_size=64): native")
    assert not empty_cache.exists()


def test_a_broken_compiler(monkeypatch, empty_cache, tmp_path, caplog):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'error: it is broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert flaxrnn.explain(LSTM(64), LARGE).startswith("LSTM(hidden_size=64): native"), "not known yet"
    falls_back(Leaky(5, leak=0.31))
    assert "error: it is broken" in caplog.text
    lines = flaxrnn.explain(LSTM(64), LARGE)
    assert lines.startswith("LSTM(hidden_size=64): fused")
    assert "native: cannot run it: the compiler" in lines
    assert not list(empty_cache.glob("*.so"))


def test_a_library_that_does_not_run(monkeypatch, empty_cache, caplog):
    def fails(library):
        raise build.BuildError("a call to a new library failed (it is broken)")

    monkeypatch.setattr(build, "_probe", fails)
    falls_back(Leaky(5, leak=0.32))
    assert "a call to a new library failed (it is broken)" in caplog.text
    assert not list(empty_cache.glob("*.so"))


def test_a_folder_that_others_can_write_to(empty_cache, caplog):
    empty_cache.mkdir(parents=True)
    empty_cache.chmod(0o777)
    falls_back(Leaky(5, leak=0.33))
    assert f"others can write to the folder {empty_cache}: run chmod 700 {empty_cache}" in caplog.text


def test_a_cache_that_cannot_be_made(monkeypatch, empty_cache, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    falls_back(Leaky(5, leak=0.34))
    assert "cannot be created" in caplog.text


def test_two_processes_at_once(empty_cache):
    """They build the shim and a kernel together; the folder is nobody else's, and the log says what takes so long."""
    program = """
import jax, flaxrnn
cell = flaxrnn.cells.GRU(5)
print(flaxrnn.scan(cell, cell.init(jax.random.key(0), 3), jax.numpy.ones([2, 6, 3]), strategy="native")[1].sum())
"""
    root = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"XDG_CACHE_HOME": str(empty_cache.parents[1]), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", program]
    running = [
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], found
    assert found[0][0] == found[1][0]
    assert sorted(path.name.split("-")[0] for path in empty_cache.iterdir()) == ["kernel", "shim"]
    assert stat.S_IMODE(empty_cache.stat().st_mode) == 0o700
    assert sum("compiling" in error for _, error in found) >= 1


def test_an_unknown_kernel_is_an_error():
    flaxrnn.scan(GRU(5), random_params(GRU(5), I), jnp.ones([2, 6, I]), strategy="native")
    call = jax.ffi.ffi_call(build.TARGET, jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"has not loaded the native kernel 'kernel-none\.forward'"):
        jax.jit(lambda x: call(x, kernel="kernel-none.forward", sizes=np.zeros(3, np.int64)))(
            jnp.ones(3)
        ).block_until_ready()


def test_building_ahead():
    done = run(sys.executable, "-m", "flaxrnn.native")
    assert done.returncode == 0, done.stderr
    assert "LSTM(hidden_size=8)" in done.stdout


@pytest.mark.parametrize("name", tiers(["lstm_everything", "gru", "gru_reset_before", "own"], {"lstm_everything"}))
@pytest.mark.parametrize(
    ("sanitizers", "processor"),
    tiers(
        [("address,undefined", "native"), ("address,undefined", "x86-64"), ("thread", "native")],
        {("address,undefined", "native")},
    ),
)
def test_under_sanitizers(name, sanitizers, processor, tmp_path):
    """No access outside an array, no undefined behaviour, no race, and the same result however the work is shared."""
    if processor != "native" and platform.machine() != "x86_64":
        processor = "native"
    (tmp_path / "kernel.cc").write_text(source(ALL[name]))
    program, main = tmp_path / "program", pathlib.Path(__file__).parent / "data" / "native" / "sanitized.cc"
    sanitize = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-march={processor}", "-g", "-O1"]
    folders = [f"-I{build.SOURCES}", f"-I{tmp_path}", '-DKERNEL="kernel.cc"']
    made = run(build.compiler(), *build.FLAGS, *sanitize, *folders, str(main), "-o", str(program))
    assert made.returncode == 0, f"the compiler, which must have the sanitizers' libraries, failed: {made.stderr}"
    done = run(str(program))
    assert done.returncode == 0, done.stdout + done.stderr


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)
