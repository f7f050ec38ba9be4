"""A strategy of a user's own: one class and one line of a table, and everything knows it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flaxrnn.linen
import flaxrnn.nnx
from flaxrnn.cells import GRU, LSTM
from flaxrnn.strategies import STRATEGIES, Plain, Strategy
from tests.compare import assert_close, normal, random_params
from train import memory
from train.errors import UserError

B, T, I = 2, 6, 3
INPUTS = jnp.asarray(normal(0, B, T, I))
RUNS = []


@dataclasses.dataclass(frozen=True)
class Toy(Strategy):
    """`plain`, for sequences of an even length; it notes what it has run."""

    unroll: int = 1

    name = "toy"

    def why_not(self, sequence):
        return "the number of steps is odd" if sequence.shape[0] % 2 else None

    def describe(self, sequence):
        return f"{sequence.shape[0]} steps in batches of {sequence.shape[1:]}"

    def run(self, sequence):
        RUNS.append((self, sequence.cell))
        return Plain().run(sequence._replace(unroll=self.unroll))


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "toy", Toy())
    RUNS.clear()


@pytest.mark.parametrize("strategy", ["toy", Toy(unroll=3)])
def test_scan_layers_and_modules_run_it(strategy):
    cell = LSTM(5, forget_bias=2.0 if strategy == "toy" else 3.0)  # else what was compiled before is run
    params = random_params(cell, I)
    expected = flaxrnn.scan(cell, params, INPUTS, strategy="plain")
    run = [flaxrnn.scan(cell, params, INPUTS, strategy=strategy)]
    assert [(STRATEGIES["toy"] if strategy == "toy" else strategy, cell)] == RUNS
    run.append(flaxrnn.RNN(cell).apply(params, INPUTS, strategy=strategy))
    run.append(flaxrnn.linen.RNN(cell, strategy=strategy).apply({"params": params}, INPUTS))
    module = flaxrnn.nnx.RNN(cell, I, rngs=nnx.Rngs(0))
    nnx.update(module, {name: nnx.Param(value) for name, value in params.items()})
    run.append(module(INPUTS, strategy=strategy))
    for found in run:
        assert_close(found, expected, rtol=1e-6)


def test_explain_tells_what_it_would_do():
    assert f"  toy: 6 steps in batches of ({B},)" in flaxrnn.explain(GRU(4), INPUTS).splitlines()
    assert "  toy: cannot run it: the number of steps is odd" in flaxrnn.explain(GRU(4), INPUTS[:, 1:]).splitlines()
    assert flaxrnn.explain(GRU(4), INPUTS, strategy="toy").startswith("GRU(hidden_size=4): toy, since it was asked for")


def test_what_it_cannot_run_is_an_error():
    cell = GRU(4)
    scan = functools.partial(flaxrnn.scan, cell, random_params(cell, I), strategy="toy")
    with pytest.raises(ValueError, match=r"strategy 'toy' cannot run GRU.*the number of steps is odd; pass strategy="):
        scan(INPUTS[:, 1:])
    with pytest.raises(TypeError, match=r"strategy is the class Toy: pass an instance, Toy\(\)"):
        flaxrnn.scan(cell, random_params(cell, I), INPUTS, strategy=Toy)


def test_the_trainer_takes_it(tmp_path):
    memory.Config(cell="gru", strategy="toy").check()
    with pytest.raises(UserError, match=r"strategy=toys"):
        memory.Config(cell="gru", strategy="toys").check()


def test_a_layer_of_ones_own_is_explained():
    @dataclasses.dataclass(frozen=True)
    class Twice(flaxrnn.Stack):
        def cells(self, input_size):
            return super().cells(input_size)[:1]

    lines = flaxrnn.explain(Twice([flaxrnn.RNN(GRU(4)), flaxrnn.RNN(LSTM(4))]), jax.ShapeDtypeStruct((B, T, I), "f4"))
    assert [line.split(":")[0] for line in lines.splitlines() if not line.startswith(" ")] == ["GRU(hidden_size=4)"]
