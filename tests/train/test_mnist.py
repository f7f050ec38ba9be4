"""`python -m train.mnist`, as a user runs it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import flaxrnn
from tests.own_cell import Leaky
from tests.tiers import tiers
from tests.train.conftest import quickly
from train import classifier, mnist
from train.errors import UserError
from train.pictures import mnist as pictures

ROOT = pathlib.Path(__file__).parents[2]


def program(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "train.mnist", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def run(data_dir, workdir, draw=False, **options):
    """A short run in this process."""
    usual = dict(hidden_size=16, steps=40, strategy="plain", checkpoint_every=40, data_dir=data_dir, workdir=workdir)
    config = mnist.Config(**usual | options)
    with quickly(draw):
        return mnist.run(config, Console(quiet=True))


def test_the_program_and_what_it_leaves(data_dir, tmp_path):
    done = program("--cell=gru", "--steps=60", "--hidden-size=24", f"--data-dir={data_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (workdir,) = (tmp_path / "runs").glob("mnist-gru-*")
    assert "step 60/60  loss " in done.stdout
    assert "step 60/60  validation loss " in done.stdout
    assert "\x1b" not in done.stdout  # no colours and no bar on a pipe

    results = json.loads((workdir / "results.json").read_text())
    assert results.keys() >= {"test_accuracy", "test_loss", "steps", "seconds", "parameters"}
    assert results["steps"] == 60
    assert results["parameters"] == (28 + 24 + 1) * 72 + 24 + 24 * 10 + 10
    assert 0.3 < results["test_accuracy"] < 1
    assert f"{results['test_accuracy']:.2%} of 10,000 images" in done.stdout
    config = json.loads((workdir / "config.json").read_text())
    assert (config["cell"], config["hidden_size"], config["steps"], config["learning_rate"]) == ("gru", 24, 60, 0.01)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [20, 40, 60]
    assert [line["step"] for line in lines if line["split"] == "validation"] == list(range(6, 61, 6))
    assert lines[0]["loss"] > lines[-2]["loss"]
    for name in ("curves.png", "confusion.png", "mistakes.png", "gates.png"):
        picture = imread(workdir / name)
        assert min(picture.shape[:2]) > 400
        assert len(np.unique(picture)) > 50
    assert not list(workdir.glob("*.unfinished"))


CELLS = {
    "elman": dict(cell="elman"),
    "rnn": dict(cell="rnn"),
    "lstm": dict(cell="lstm", forget_bias=0.5),
    "peephole and coupled": dict(cell="lstm", peephole=True, coupled=True),
    "bidirectional": dict(cell="lstm", bidirectional=True),
    "two layers": dict(cell="gru", layers=2, bidirectional=True),
    "gru of the paper": dict(cell="gru", reset_after=False),
    "mgu": dict(cell="mgu"),
    "regularised": dict(cell="lstm", layers=2, dropout=0.1, recurrent_dropout=0.1, zoneout=0.1, residual=True),
    "zoneout of a gru": dict(cell="gru", zoneout=0.1),
    "layer normalisation": dict(cell="gru", layer_norm=True, bidirectional=True),
    "own": dict(cell="leaky"),
}


@pytest.fixture(autouse=True)
def leaky(monkeypatch):
    """A cell of one's own, by its name among the others."""
    monkeypatch.setitem(flaxrnn.cells.CELLS, "leaky", Leaky)


@pytest.mark.parametrize("name", tiers(CELLS, {"bidirectional", "own"}))
def test_every_network_learns(name, data_dir, tmp_path):
    results = run(data_dir, tmp_path, **CELLS[name])
    assert results["test_loss"] < 2.2  # log(10) = 2.303 is knowing nothing


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(data_dir, tmp_path):
    first, second, other = (
        run(data_dir, tmp_path / str(number), cell="lstm", seed=seed) for number, seed in enumerate([3, 3, 4])
    )
    assert first["test_loss"] == second["test_loss"] != other["test_loss"]


WRONG_OPTIONS = {
    "--cell=gru --peephole": "--peephole does not go with --cell=gru: it is an option of lstm",
    "--cell=elman --forget-bias=0": "--forget-bias does not go with --cell=elman: it is an option of lstm",
    "--cell=lstm --reset-after": "--reset-after does not go with --cell=lstm: it is an option of gru, mgu",
    "--cell=mgu --no-coupled": "--no-coupled does not go with --cell=mgu: it is an option of lstm",
    "--cell=lstn": "--cell=lstn: there is no such cell: pass one of elman, rnn, lstm, gru, mgu, leaky",
    "--resume --workdir=x": "--resume finds a workdir by itself: pass it or --workdir, which goes on with what it has",
    "--strategy=fast": "--strategy=fast: there is no such strategy: pass one of "
    "auto, plain, fused, native, checkpointed, pallas",
    "--processes=2": "--processes is for several processes: pass --distributed too",
    "--keep=0": "--keep=0: pass a positive number below 2^31",
    "--steps=3 --epochs=2": "--epochs and --steps both say how long to train: pass one of them",
    "--dropout=1": "--dropout=1.0: pass a probability, from 0 up to but not 1",
    "--zoneout=-0.1": "--zoneout=-0.1: pass a probability, from 0 up to but not 1",
    "--residual": "--residual needs a layer to add to: pass --layers=2 or more",
    "--steps=0": "--steps=0: pass a positive number below 2^31",
    "--hidden-size=-1": "--hidden-size=-1: pass a positive number below 2^31",
    "--learning-rate=nan": "--learning-rate=nan: pass a positive number below 2^31",
    "--epochs=inf": "--epochs=inf: pass a positive number below 2^31",
    "--cell=lstm --forget-bias=nan": "--forget-bias=nan: pass a finite number",
    "--shift=28": "--shift=28: pass a number of pixels from 0 to 27",
    "--seed=-1": "--seed=-1: pass a number from 0 to 4294967295",
}


@pytest.mark.parametrize("arguments", WRONG_OPTIONS)
def test_wrong_options(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mnist", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        mnist.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {WRONG_OPTIONS[arguments]}\n"
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_a_workdir_that_holds_something_else_is_left_alone(data_dir, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}")
    with pytest.raises(UserError, match="holds something else than a run: pass another --workdir"):
        run(data_dir, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "lock"}
    assert (tmp_path / "metrics.jsonl").read_text() == "{}"


def test_a_workdir_that_cannot_be_written(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: pass another --workdir"):
        run(data_dir, tmp_path / "file")


def test_a_batch_larger_than_the_training_set(data_dir, tmp_path):
    with pytest.raises(UserError, match="--batch-size=100000: there are 55000 training images"):
        run(data_dir, tmp_path / "run", batch_size=100_000)
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class SquareRoot(flaxrnn.cells.Elman):
    """A network whose loss is not a number from the start."""

    activation: Callable[[jax.Array], jax.Array] = jnp.sqrt


def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch, data_dir, tmp_path):
    monkeypatch.setitem(flaxrnn.cells.CELLS, "root", SquareRoot)
    with pytest.raises(
        UserError, match=r"the loss is nan at step 1, and the first that is not finite is the (gradient of|loss itself)"
    ):
        run(data_dir, tmp_path, cell="root")


@pytest.mark.slow
def test_a_run_that_diverges_later_keeps_its_last_good_checkpoint(monkeypatch, data_dir, tmp_path):
    real = mnist.mnist.batches

    def spoilt(*arguments):
        def spoil(number, batch):
            return batch._replace(images=batch.images * (np.nan if number == 25 else 1))

        return SpoiltBatches(real(*arguments), spoil)

    with monkeypatch.context() as patch:
        patch.setattr(mnist.mnist, "batches", spoilt)
        with pytest.raises(
            UserError, match=r"the loss is nan at step 25, .* pass a lower --learning-rate, and another --workdir; the"
        ):
            run(data_dir, tmp_path, checkpoint_every=10)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()} >= {"20"}
    assert run(data_dir, tmp_path, checkpoint_every=10)["test_loss"] < 2.2  # with the data as they are it goes on


class SpoiltBatches:
    """Batches of which some are changed on the way."""

    def __init__(self, batches, change):
        self.iterator, self.change, self.number = iter(batches), change, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.number += 1
        return self.change(self.number, next(self.iterator))

    def get_state(self):
        return self.iterator.get_state()


SWITCHES = {
    "peephole": dict(cell="lstm", peephole=True),
    "coupled": dict(cell="lstm", coupled=True),
    "forget_bias": dict(cell="lstm", forget_bias=2.0),
    "reset_after": dict(cell="gru", reset_after=False),
    "bidirectional": dict(bidirectional=True),
    "layers": dict(layers=2),
    "residual": dict(layers=2, residual=True),
    "layer_norm": dict(layer_norm=True),
    "dropout": dict(dropout=0.5),
    "recurrent_dropout": dict(recurrent_dropout=0.5),
    "zoneout": dict(zoneout=0.5),
    "seed": dict(seed=1),
    "precision": dict(precision="bfloat16"),
    "read": dict(read="columns"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_no_option_does_nothing(name):
    """With it the network answers differently than without it."""

    def logits(**options):
        config = mnist.Config(hidden_size=8, **options)
        network = config.make_classifier()
        params = network.init(jax.random.key(config.seed))
        params = jax.tree.map(lambda p: p + 0.1, params)  # so that peepholes and biases count
        return network.apply(params, jax.random.normal(jax.random.key(1), (4, 28, 28)), jax.random.key(2))

    options = SWITCHES[name]
    without = {key: value for key, value in options.items() if key != name}
    assert np.any(logits(**options) != logits(**without))


def test_any_cell_can_be_trained(monkeypatch, data_dir, tmp_path):
    """Not only one with gates."""

    @dataclasses.dataclass(frozen=True)
    class Sum(flaxrnn.cells.Cell):
        hidden_size: int

        @property
        def output_size(self):
            return self.hidden_size

        def init(self, key, input_size, dtype=jnp.float32):
            return {"kernel": jax.nn.initializers.lecun_normal()(key, (input_size, self.hidden_size), dtype)}

        def initial_state(self, batch_shape=(), dtype=jnp.float32):
            return (jnp.zeros((*batch_shape, self.hidden_size), dtype),)

        def recur(self, params, state, projected, product):
            total = state[0] + jnp.tanh(projected @ params["kernel"])
            return (total,), total

    monkeypatch.setitem(flaxrnn.cells.CELLS, "sum", Sum)
    assert run(data_dir, tmp_path, draw=True, cell="sum")["test_loss"] < 2.2


READINGS = {"columns": {}, "pixels": {"steps": 3, "hidden_size": 4}, "permuted-pixels": {"steps": 3, "hidden_size": 4}}


@pytest.mark.parametrize("read", tiers(READINGS, {"columns"}))
def test_every_way_to_read(read, data_dir, tmp_path):
    assert np.isfinite(run(data_dir, tmp_path, draw=True, read=read, **READINGS[read])["test_loss"])


def test_pixels_are_read_one_by_one_in_a_fixed_order():
    image = np.arange(784).reshape(1, 28, 28)
    assert np.array_equal(classifier.READINGS["columns"](image)[0, 3], image[0, :, 3])
    assert np.array_equal(classifier.READINGS["pixels"](image)[0, :, 0], np.arange(784))
    permuted = classifier.READINGS["permuted-pixels"](image)[0, :, 0]
    assert np.array_equal(permuted, np.random.default_rng(0).permutation(784))


OPTIONS = {
    "bfloat16": {"precision": "bfloat16"},
    "strategy": {"strategy": "checkpointed"},
    "tensorboard": {"log": "tensorboard"},
    "profile": {"profile": True},
}


@pytest.mark.parametrize("name", tiers(OPTIONS, {"strategy", "tensorboard", "profile"}))
def test_options_of_a_run(name, data_dir, tmp_path):
    assert run(data_dir, tmp_path, **OPTIONS[name])["test_loss"] < 2.2
    written = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert ("events" in written) == (name == "tensorboard")
    assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (name == "profile")


def test_help_explains_every_option():
    shown = program("--help")
    assert shown.returncode == 0
    assert "Features of the hidden state" in shown.stdout
    for option in (
        "cell",
        "layers",
        "peephole",
        "no-reset-after",
        "forget-bias",
        "epochs",
        "steps",
        "workdir",
        "data-dir",
    ):
        assert f"--{option}" in shown.stdout


def test_a_progress_bar_on_a_terminal(data_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    config = mnist.Config(hidden_size=8, steps=25, data_dir=data_dir, workdir=tmp_path / "run")
    with (tmp_path / "screen").open("w") as screen, quickly():
        mnist.run(config, Console(file=screen, force_terminal=True, width=120))
    shown = (tmp_path / "screen").read_text()
    assert "━" in shown
    assert "25/25" in shown
    assert "steps/s" in shown


def test_pictures_of_a_network_without_mistakes(tmp_path):
    labels = np.arange(10)
    probabilities = np.eye(10)
    pictures.mistakes(tmp_path / "mistakes.png", "perfect", np.zeros((10, 28, 28)), labels, probabilities)
    pictures.confusion(tmp_path / "confusion.png", "perfect", labels, labels, 10)
    metrics = [dict(split=split, step=1, loss=0.0, accuracy=1.0) for split in ("train", "validation")]
    pictures.curves(tmp_path / "curves.png", "perfect", metrics)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_too_few_steps_for_a_profile(data_dir, tmp_path):
    with pytest.raises(UserError, match="--profile begins after 10 steps, but there are 8: pass more --steps"):
        run(data_dir, tmp_path, steps=8, profile=True)
    run(data_dir, tmp_path, steps=8)
