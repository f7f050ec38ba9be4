"""`python -m train.charlm`: the streams, the 5-gram model, and a network that learns a text by heart."""

import math

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.compare import assert_close
from tests.train.conftest import broken_off
from train import charlm, evaluate, sample
from train.data import text as data
from train.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SENTENCE = "The quick brown fox jumps over the lazy dog, and 27 dogs sleep. "


def run(workdir, **options):
    usual = dict(
        hidden_size=32, dropout=0.0, steps=150, batch_size=8, unroll=16, workdir=workdir, sample=30, temperature=0.0
    )
    return charlm.run(charlm.Config(**usual | options), Console(quiet=True))


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 60, encoding="utf-8")
    return path


def test_another_text_is_another_run_and_another_sample_is_not(sentences, tmp_path):
    options = {"text": sentences, "steps": 6, "checkpoint_every": 3}
    with broken_off(after=4):
        run(tmp_path / "run", **options)
    content = sentences.read_text(encoding="utf-8")
    sentences.write_text(content[::-1], encoding="utf-8")
    with pytest.raises(UserError, match=r"holds a run with --text=.*: pass the same options"):
        run(tmp_path / "run", **options)
    sentences.write_text(content, encoding="utf-8")
    assert run(tmp_path / "run", **options, temperature=0.5)["steps"] == 6


def test_the_text_that_comes_along():
    text = data.load(None, 1)
    total = len(text.train) + len(text.validation) + len(text.test)
    assert total == len(data.AUSTEN.read_text(encoding="utf-8"))
    assert len(text.train) == round(0.9 * total)
    assert len(text.test) == pytest.approx(0.05 * total, abs=2)
    beginning = "".join(text.characters[number] for number in text.train[:19])
    assert beginning == "PRIDE AND PREJUDICE"


def test_characters_that_training_has_not_seen(tmp_path):
    (tmp_path / "text.txt").write_text("ab" * 50 + "ç", encoding="utf-8")
    text = data.load(tmp_path / "text.txt", 1)
    assert text.characters[1:] == "ab"
    assert text.test[-1] == 0


def test_streams_go_on_where_they_stopped():
    numbers = np.arange(103, dtype=np.int32)
    iterator = iter(data.batches(numbers, batch_size=3, unroll=10))
    read = [next(iterator) for _ in range(5)]
    inputs = np.concatenate([batch.inputs for batch in read], axis=1)
    resets = np.concatenate([batch.resets for batch in read], axis=1)
    for stream in range(3):
        np.testing.assert_array_equal(inputs[stream], 34 * stream + np.arange(50) % 34)
        np.testing.assert_array_equal(np.flatnonzero(resets[stream]), [0, 34])
    for batch in read:
        np.testing.assert_array_equal(batch.targets, batch.inputs + 1)
    halves = [next(iter(data.batches(numbers, 4, 10, rows))).inputs for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_array_equal(np.concatenate(halves), next(iter(data.batches(numbers, 4, 10))).inputs)


def test_bits_of_an_n_gram_model():
    """By hand: two kinds, a b a a; then of "a b" the b: 1/3 of 1 order, interpolated."""
    train, test = np.array([1, 2, 1, 1], np.int32), np.array([1, 2], np.int32)
    unigram = (1 + 2 * (1 / 3)) / (4 + 2)  # b once in four, two kinds, three characters
    assert data.ngram_bits(train, test, 3, order=1) == pytest.approx(-math.log2(unigram))
    bigram = (1 + 2 * unigram) / (2 + 2)  # after a: b and a, once each
    assert data.ngram_bits(train, test, 3, order=2) == pytest.approx(-math.log2(bigram))
    assert data.ngram_bits(train, test, 3, order=5) == pytest.approx(-math.log2(bigram))


def test_chances_of_an_n_gram_model_add_up_to_one():
    rng = np.random.default_rng(0)
    train, before = rng.integers(0, 4, 300).astype(np.int32), rng.integers(0, 4, 6).astype(np.int32)

    def bits(test):
        return data.ngram_bits(train, test, 4) * (len(test) - 1)

    chances = [2 ** (bits(before[:-1]) - bits(np.append(before[:-1], np.int32(k)))) for k in range(4)]
    assert sum(chances) == pytest.approx(1)


def test_it_learns_a_text_by_heart(tmp_path, sentences):
    results = run(tmp_path / "run", text=sentences, prompt="The quick", steps=300, learning_rate=0.01)
    assert results["test_bits"] < 0.5
    assert results["five_gram_bits"] < 1
    written = (tmp_path / "run" / "sample.txt").read_text()
    assert written.startswith("The quick brown fox jumps over")
    scored = evaluate.run(evaluate.Options(tmp_path / "run"), Console(quiet=True))
    assert scored["bits"] == pytest.approx(results["test_bits"])
    assert scored["loss"] == pytest.approx(results["test_bits"] * math.log(2))
    again = sample.Options(tmp_path / "run", sample=30, temperature=0.0, prompt="The quick")
    assert sample.run(again, Console(quiet=True)) + "\n" == written
    other = sample.run(sample.Options(tmp_path / "run", sample=50, prompt="27 dogs"), Console(quiet=True))
    assert other.startswith("27 dogs")
    assert len(other) == 57
    (tmp_path / "run" / "characters.txt").unlink()
    with pytest.raises(UserError, match=r"cannot be read: .*characters.txt"):
        sample.run(again, Console(quiet=True))


def test_state_is_carried_from_batch_to_batch(sentences):
    """Two batches in a row have the loss of the whole."""
    config = charlm.Config(hidden_size=8, dropout=0.0, cell="gru", batch_size=2, unroll=6)
    text = data.load(sentences, 1)
    model = charlm.LanguageModel(config.make_layers(), len(text.characters), 2)
    params = model.init(jax.random.key(0))
    iterator = iter(data.batches(text.train, 2, 6))
    first, second = next(iterator), next(iterator)
    key = jax.random.key(1)
    one, (carry, _) = model.loss(params, model.carry(), first, key)
    two, (carry, _) = model.loss(params, carry, second, key)
    whole = data.Batch(*(np.concatenate(parts, axis=1) for parts in zip(first, second, strict=True)))
    both, (final, _) = model.loss(params, model.carry(), whole, key)
    assert_close((one + two) / 2, both)
    assert_close(carry, final)


def test_temperature():
    config = charlm.Config(hidden_size=8, sample=200)
    model = charlm.LanguageModel(config.make_layers(), 5, 1)
    params = model.init(jax.random.key(0))
    prompt = np.array([1, 2, 3], np.int32)
    drawn = {
        temperature: np.asarray(charlm.sample(model, params, prompt, 200, temperature, jax.random.key(seed)))
        for temperature, seed in ((0.0, 1), (1.0, 1), (1e3, 1))
    }
    assert not any(0 in numbers for numbers in drawn.values())  # the unknown character is never written
    counts = np.bincount(drawn[1e3], minlength=5)[1:]
    assert counts.min() > 25  # all alike
    again = charlm.sample(model, params, prompt, 200, 0.0, jax.random.key(2))
    np.testing.assert_array_equal(drawn[0.0], again)


@pytest.mark.slow
def test_a_run_in_bfloat16_that_goes_on(tmp_path, sentences):
    options = {
        "text": sentences,
        "precision": "bfloat16",
        "steps": 12,
        "dropout": 0.1,
        "strategy": "plain",
    }
    whole = run(tmp_path / "whole", **options)
    with broken_off(after=7):
        run(tmp_path / "run", **options)
    assert run(tmp_path / "run", **options)["test_bits"] == whole["test_bits"]


WRONG = {
    "missing": (dict(text="none.txt"), "--text=none.txt cannot be read"),
    "short": (dict(batch_size=1000), "too few for --batch-size and --unroll"),
    "temperature": (dict(temperature=-1.0), "--temperature=-1.0: pass 0 or a positive number"),
    "sample": (dict(sample=-1), "--sample=-1: pass a number of characters"),
    "prompt": (dict(prompt=""), "--prompt is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name, tmp_path, sentences):
    options, message = WRONG[name]
    options = {"text": sentences} | options
    if name == "missing":
        options["text"] = charlm.pathlib.Path("none.txt")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_one_character_for_validation_is_too_few(tmp_path):
    (tmp_path / "text.txt").write_text("x" * 32, encoding="utf-8")
    with pytest.raises(UserError, match="the text has 32 characters, too few"):
        data.load(tmp_path / "text.txt", 1)
