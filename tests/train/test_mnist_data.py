"""The MNIST pipeline: the right images, prepared once, and made again where something happened to them."""

import gzip
import hashlib
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from train.data import mnist
from train.data.flaxrnn_mnist import flaxrnn_mnist_dataset_builder as builder_lib
from train.errors import UserError

# how many images there are of each digit, as published: http://yann.lecun.com/exdb/mnist/ has 60,000 and 10,000 in all
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def prepared(data_dir):
    """A data-dir in which MNIST has been prepared."""
    mnist.load(data_dir)
    return data_dir


@pytest.fixture(scope="module")
def data(prepared):
    return mnist.load(prepared)


def test_it_is_mnist(data):
    labels = np.concatenate([data.train.labels, data.validation.labels])
    assert np.bincount(labels).tolist() == TRAIN_COUNTS
    assert np.bincount(data.test.labels).tolist() == TEST_COUNTS
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert [len(split.labels) for split in data] == [55_000, 5_000, 10_000]
    images = np.concatenate([data.train.images, data.validation.images]) / 255
    # the mean and the standard deviation that every tutorial normalises with
    assert images.mean() == pytest.approx(0.1307, abs=1e-4)
    assert images.std() == pytest.approx(0.3081, abs=1e-4)


def test_prepared_once(prepared, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*.array_record*")}
    assert len(before) == 2
    mnist.load(prepared)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*.array_record*")} == before
    assert capsys.readouterr() == ("", "")


def one_shard(data_dir):
    return next(data_dir.rglob("*train.array_record*"))


def flip_a_byte(data_dir):
    shard = one_shard(data_dir)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)


def garble_the_description(data_dir):
    next(data_dir.rglob("dataset_info.json")).write_text('{"splits": [')


def leave_half_written(data_dir):
    """What a program that was killed while it prepared leaves behind."""
    version = data_dir / "flaxrnn_mnist" / "1.0.0"
    version.rename(version.with_name("incomplete.ABCDEF_1.0.0"))


def swap_train_and_test(data_dir):
    """All files whole, but not the right ones."""
    train, test = one_shard(data_dir), next(data_dir.rglob("*test.array_record*"))
    test.write_bytes(train.read_bytes())


DAMAGES = [flip_a_byte, garble_the_description, leave_half_written, swap_train_and_test]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The repository's files cut to a few images, so that they are prepared in a second."""
    files = tmp_path / "files"
    files.mkdir()
    digests = {}
    for name in builder_lib.SHA256:
        content = builder_lib.to_idx(builder_lib.read_idx(name)[: 300 if name.startswith("train") else 100])
        (files / f"{name}.gz").write_bytes(gzip.compress(content))
        digests[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(builder_lib, "FILES", files)
    monkeypatch.setattr(builder_lib, "SHA256", digests)
    monkeypatch.setattr(mnist, "VALIDATION_SIZE", 50)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_dataset_is_noticed_and_made_again(damage, tmp_path, capsys):
    data_dir = tmp_path / "data"
    data = mnist.load(data_dir)
    assert [len(split.labels) for split in data] == [250, 50, 100]
    assert "Preparing MNIST" in capsys.readouterr().out
    damage(data_dir)
    repaired = mnist.load(data_dir)
    assert "it is made again" in capsys.readouterr().err
    assert all(
        np.array_equal(a, b)
        for ours, theirs in zip(repaired, data, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    assert not list(data_dir.rglob("incomplete*"))
    mnist.load(data_dir)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_two_programs_prepare_at_once(tmp_path):
    program = "import pathlib, sys; from train.data import mnist; "
    program += "print(len(mnist.load(pathlib.Path(sys.argv[1])).test.labels))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = pathlib.Path(__file__).parents[2]
    programs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) for _ in range(2)
    ]
    outputs = [program.communicate(timeout=300) for program in programs]
    assert [(output.splitlines()[-1], errors) for output, errors in outputs] == [("10000", "")] * 2
    assert sum("Preparing MNIST" in output for output, _ in outputs) == 1


def test_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"MNIST cannot be prepared in .*/file/data .*: pass a --data-dir"):
        mnist.load(tmp_path / "file" / "data")


def other_content(path):
    shutil.copy(path.with_name("t10k-labels-idx1-ubyte.gz"), path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_content, r"train-labels-idx1-ubyte.gz is damaged \(SHA-256 ff7bcfd4.*git checkout"),
        (cut_off, r"train-labels-idx1-ubyte.gz cannot be read \(Compressed file ended.*git checkout"),
        (pathlib.Path.unlink, r"train-labels-idx1-ubyte.gz cannot be read \(.*No such file.*git checkout"),
    ],
)
def test_damaged_files_in_the_repository_are_named(damage, message, monkeypatch, tmp_path):
    for name in builder_lib.SHA256:
        shutil.copy(builder_lib.FILES / f"{name}.gz", tmp_path)
    damage(tmp_path / "train-labels-idx1-ubyte.gz")
    monkeypatch.setattr(builder_lib, "FILES", tmp_path)
    with pytest.raises(UserError, match=message):
        mnist.load(tmp_path / "data")


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_batches_are_float_images_in_a_shuffled_order(data):
    (batch,) = take(mnist.batches(data.train, 128, seed=0), 1)
    assert batch.images.shape == (128, 28, 28)
    assert batch.images.dtype == np.float32
    assert (batch.images.min(), batch.images.max()) == (0, 1)
    assert batch.labels.dtype == np.int32
    assert batch.labels.tolist() != data.train.labels[:128].tolist()


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(data):
    small = mnist.Split(data.train.images[:300], np.arange(300, dtype=np.int32))
    batches = take(mnist.batches(small, 50, seed=0), 12)
    for batch in batches:
        np.testing.assert_array_equal(batch.images, mnist.to_float(small.images[batch.labels]))
    first, second = (np.concatenate([batch.labels for batch in batches[part]]) for part in (slice(6), slice(6, 12)))
    assert sorted(first) == sorted(second) == list(range(300))
    assert first.tolist() != second.tolist()


def test_the_seed_decides(data):
    def run(seed):
        return take(mnist.batches(data.train, 32, seed=seed, shift=2), 3)

    for a, b in zip(run(5), run(5), strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert not np.array_equal(run(5)[0].labels, run(6)[0].labels)


def test_shifts_move_images_by_at_most_so_many_pixels():
    images = np.zeros((400, 28, 28), np.uint8)
    images[:, 10, 20] = 255
    images[:, 0, 0] = 7
    moved = mnist.shifted(images, 2, np.random.default_rng(0).integers(0, 5, (2, 400)))
    assert moved.shape == images.shape
    places = {tuple(np.argwhere(image == 255)[0]) for image in moved}
    assert places == {(10 + down, 20 + right) for down in range(-2, 3) for right in range(-2, 3)}
    assert 0 < np.sum(moved == 7) < 400  # at the edge it may leave the image
    np.testing.assert_array_equal(mnist.shifted(images, 0, np.zeros((2, 400), int)), images)


@pytest.mark.parametrize("name", ["notes.txt", "1.0.0/notes.txt", "photos/dataset_info.json"])
def test_files_of_the_user_are_never_removed(name, tmp_path):
    path = tmp_path / "flaxrnn_mnist" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(UserError, match="so nothing there is removed: move it away"):
        mnist.load(tmp_path)
    assert path.read_text() == "precious"


def test_reading_only_writes_nothing(tmp_path):
    with pytest.raises(UserError, match=r"pass the --data-dir of a run of train\.mnist, which prepares it"):
        mnist.load(tmp_path, prepare=False)
    assert not list(tmp_path.iterdir())
