"""`python -m train.memory`: the tasks are what the papers say, and networks learn them."""

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from tests.compare import assert_equal
from tests.train.conftest import broken_off
from train import evaluate, memory
from train.data import memory as data
from train.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SPLITS = ("train", "validation", "test")


def run(workdir, **options):
    return memory.run(memory.Config(workdir=workdir, **options), Console(quiet=True))


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding(length):
    inputs, targets = data.adding(500, length, np.random.default_rng(0))
    numbers, marks = inputs[..., 0], inputs[..., 1]
    assert inputs.shape == (500, length, 2)
    assert np.all((numbers >= 0) & (numbers < 1))
    half = length // 2
    assert np.all(marks[:, :half].sum(1) == 1)
    assert np.all(marks[:, half:].sum(1) == 1)
    np.testing.assert_allclose((numbers * marks).sum(1), targets, rtol=1e-6)
    if length == 50:
        assert len(set(np.argmax(marks, axis=1))) == half  # anywhere


@pytest.mark.parametrize("length", [1, 30])
def test_copy(length):
    inputs, targets = data.copy(50, length, np.random.default_rng(0))
    assert inputs.shape == (50, length + 20, 10)
    assert np.all(inputs.sum(-1) == 1)
    seen = np.argmax(inputs, axis=-1)
    assert set(seen[:, :10].ravel()) == set(range(1, 9))
    np.testing.assert_array_equal(targets[:, -10:], seen[:, :10])
    assert np.all(targets[:, :-10] == 0)
    assert np.all(np.flatnonzero(seen[0] == 9) == [9 + length])


def test_the_baselines_are_those_of_the_best_constant_answers():
    _, targets = data.adding(200_000, 10, np.random.default_rng(0))
    assert np.mean((targets - 1) ** 2) == pytest.approx(data.baseline("adding", 10), rel=0.01)
    _, targets = data.copy(2_000, 5, np.random.default_rng(0))
    probabilities = np.where(np.arange(25) < 15, 1.0, 1 / 8)  # of the right answer: blanks are known, symbols are not
    assert -np.mean(np.log(probabilities)) == pytest.approx(data.baseline("copy", 5))
    assert np.all((targets[:, 15:] >= 1) & (targets[:, 15:] <= 8))


def test_batches_come_again_and_can_be_shared():
    iterators = [
        iter(data.batches("adding", 8, 6, seed, rows))
        for seed, rows in [(3, slice(None)), (3, slice(None)), (4, slice(None)), (3, slice(0, 4)), (3, slice(4, 8))]
    ]
    for _ in range(3):
        whole, again, other, first, second = (next(iterator) for iterator in iterators)
        assert_equal(whole, again)
        assert not np.array_equal(whole.inputs, other.inputs)
        assert_equal(whole, data.Batch(*(np.concatenate(parts) for parts in zip(first, second, strict=True))))


def test_an_lstm_learns_to_add(tmp_path):
    results = run(tmp_path, cell="lstm", length=10, steps=600, hidden_size=32, strategy="plain")
    assert results["test_loss"] < 0.2 * results["baseline"]
    scored = {split: evaluate.run(evaluate.Options(tmp_path, split=split), Console(quiet=True)) for split in SPLITS}
    assert scored["test"]["loss"] == results["test_loss"]
    assert len({one["loss"] for one in scored.values()}) == 3
    with pytest.raises(UserError, match=r"--data-dir is for runs of train\.mnist, and this one is of train\.memory"):
        evaluate.run(evaluate.Options(tmp_path, data_dir=tmp_path), Console(quiet=True))
    assert len(np.unique(imread(tmp_path / "curve.png"))) > 50


@pytest.mark.slow
def test_a_gru_learns_to_copy(tmp_path):
    results = run(tmp_path, task="copy", cell="gru", length=1, steps=250, hidden_size=48, learning_rate=0.01)
    assert results["test_loss"] < results["baseline"]
    assert results["test_accuracy"] > 0.2  # one in eight is chance


@pytest.mark.slow
def test_a_run_that_is_broken_off_goes_on(tmp_path):
    options = {"cell": "elman", "length": 6, "steps": 40, "hidden_size": 8, "strategy": "plain"}
    whole = run(tmp_path / "whole", **options)
    with broken_off(after=24):
        run(tmp_path / "run", **options)
    assert run(tmp_path / "run", **options)["test_loss"] == whole["test_loss"]


def test_a_length_that_is_too_short(tmp_path):
    with pytest.raises(UserError, match="--length=1: pass two steps or more"):
        run(tmp_path / "run", length=1)
    assert not (tmp_path / "run").exists()


def test_dropout_before_the_read_out():
    network = memory.Config(cell="elman", hidden_size=8, dropout=0.5, length=4, batch_size=3).make_network()
    params = network.init(jax.random.key(0))
    batch = next(iter(data.batches("adding", 3, 4, 0)))
    losses = [float(network.loss(params, (), batch, jax.random.key(seed))[0]) for seed in range(2)]
    assert losses[0] != losses[1]
