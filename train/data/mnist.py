"""MNIST, from the repository's own files by tensorflow-datasets and grain to batches `[batch, 28, 28]`."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import pathlib
import re
import shutil
import sys
from typing import NamedTuple

import filelock
import grain
import numpy as np
import tensorflow_datasets as tfds

from train.data.flaxrnn_mnist import flaxrnn_mnist_dataset_builder as builder_lib
from train.errors import UserError

VALIDATION_SIZE = 5_000
OWN_FILES = re.compile(
    r"dataset_info\.json|features\.json|label\.labels\.txt|flaxrnn_mnist-(train|test)\.array_record.*"
)
"""The names of the files that tensorflow-datasets writes for this dataset."""
OWN_FOLDERS = re.compile(r"(incomplete\.\w+_)?\d+\.\d+\.\d+")


class Split(NamedTuple):
    """Images and their labels, in memory.

    Attributes:
      images: `[number, 28, 28]` uint8, ink is 255.
      labels: `[number]` int32, the digit.
    """

    images: np.ndarray
    labels: np.ndarray


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
      images: `[batch, 28, 28]` float32 from 0 to 1; a row is a time step.
      labels: `[batch]` int32.
    """

    images: np.ndarray
    labels: np.ndarray


class MNIST(NamedTuple):
    """The dataset: the validation set is the last 5,000 images of the original training set."""

    train: Split
    validation: Split
    test: Split


def load(data_dir: pathlib.Path | None = None, prepare: bool = True) -> MNIST:
    """Reads MNIST from `data_dir`, where it is prepared first if it is not there or damaged.

    Programs that run at the same time may share a `data_dir`: one prepares, the others wait.

    Args:
      data_dir: where tensorflow-datasets keeps its datasets; by default its own, `~/tensorflow_datasets`.
      prepare: whether it may be written; with False nothing in `data_dir` is touched.

    Raises:
      UserError: if the dataset must be prepared, and may not or cannot be written there, or a folder of its name holds
        files that are not the dataset's.
    """
    data_dir = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser().absolute()
    try:
        return _read(data_dir)
    except _NotPreparedError as first:
        if not prepare:
            raise UserError(
                f"the MNIST in {data_dir} {first}: pass the --data-dir of a run of train.mnist, which prepares it"
            ) from first
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(data_dir / "flaxrnn_mnist.lock"):
                return _prepare_and_read(data_dir, first)
        except OSError as error:
            raise UserError(
                f"MNIST cannot be prepared in {data_dir} ({error}): pass a --data-dir that can be written"
            ) from error


def batches(split: Split, batch_size: int, seed: int, shift: int = 0, rows: slice = slice(None)) -> grain.IterDataset:
    """Endless shuffled batches: all images once, in an order of their own, then all of them in another.

    Args:
      split: the images to draw from.
      batch_size: how many images a batch has.
      seed: the order and the shifts; the same seed gives the same batches.
      shift: by up to how many pixels an image is shifted, at random, in each direction.
      rows: which rows of each batch to read, for one process of several; together they have the batch that one has.
    """

    def gather(chosen: np.ndarray, generator: np.random.Generator) -> Batch:
        moves = generator.integers(0, 2 * shift + 1, (2, batch_size))
        images = shifted(split.images[chosen[rows]], shift, moves[:, rows])
        return Batch(to_float(images), split.labels[chosen[rows]])

    indices = grain.MapDataset.source(ShuffledIndices(len(split.labels), batch_size, seed)).seed(seed)
    return indices.random_map(gather).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=16))


@dataclasses.dataclass(frozen=True)
class ShuffledIndices:
    """A source for grain whose element k is the indices `[batch_size]` of the images in batch k.

    Grain's own `shuffle` and `batch` go through Python for each image, which on two cores takes a tenth of the time of
    a training step; this goes through it once a batch.
    """

    size: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return 2**31  # more than anyone will train for

    def __getitem__(self, batch: int) -> np.ndarray:
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        epochs = positions // self.size
        parts = [
            order(self.size, self.seed, epoch)[positions[epochs == epoch] % self.size]
            for epoch in range(epochs[0], epochs[-1] + 1)
        ]
        return np.concatenate(parts)


@functools.lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
def order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch goes through `size` images."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def shifted(images: np.ndarray, shift: int, moves: np.ndarray) -> np.ndarray:
    """Each image moved by `moves - shift` pixels, `[2, number]`, down and right; paper comes in at the edges."""
    number, height, width = images.shape
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    return windows[np.arange(number), *moves]


def to_float(images: np.ndarray) -> np.ndarray:
    """Images from 0 to 255 as float32 from 0 to 1."""
    return np.multiply(images, np.float32(1 / 255), dtype=np.float32)


class _NotPreparedError(Exception):
    """The dataset is not there, or is not what it should be."""


def _read(data_dir: pathlib.Path) -> MNIST:
    """Reads the prepared dataset, and holds its content against the SHA-256 of the original files."""
    try:
        builder = builder_lib.Builder(data_dir=data_dir, file_format="array_record")
        if not builder.info.splits:
            raise _NotPreparedError("is not complete")
        train, test = (_read_split(builder, name) for name in ("train", "test"))
    except (_NotPreparedError, ImportError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(f"the MNIST in {data_dir} cannot be read ({error}): pass another --data-dir") from error
    except Exception as error:  # whatever a damaged file makes its readers do
        raise _NotPreparedError(f"cannot be read ({type(error).__name__}: {error})") from error
    for name, split in ("train", train), ("t10k", test):
        for kind, array in ("images-idx3", split.images), ("labels-idx1", split.labels.astype(np.uint8)):
            digest = hashlib.sha256(builder_lib.to_idx(array)).hexdigest()
            if digest != builder_lib.SHA256[f"{name}-{kind}-ubyte"]:
                raise _NotPreparedError("is damaged: its content is not MNIST's")
    beginning = Split(*(array[:-VALIDATION_SIZE] for array in train))
    end = Split(*(array[-VALIDATION_SIZE:] for array in train))
    return MNIST(beginning, end, test)


def _strange(folder: pathlib.Path) -> pathlib.Path | None:
    """Something at or below `folder` that tensorflow-datasets has not written there; None if there is nothing."""
    if folder.is_symlink() or not folder.is_dir():
        return folder
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        folders, files = (parts, ()) if path.is_dir() and not path.is_symlink() else (parts[:-1], parts[-1:])
        own = len(folders) == 1 and OWN_FOLDERS.fullmatch(folders[0])
        if path.is_symlink() or not own or not all(OWN_FILES.fullmatch(name) for name in files):
            return path
    return None


def _read_split(builder: tfds.core.DatasetBuilder, name: str) -> Split:
    source = builder.as_data_source(name)
    records = source.__getitems__(range(len(source)))
    images = np.stack([record["image"] for record in records])
    return Split(images, np.array([record["label"] for record in records], np.int32))


def _prepare_and_read(data_dir: pathlib.Path, reason: _NotPreparedError) -> MNIST:
    """Reads the dataset if another program has prepared it meanwhile; prepares it anew otherwise."""
    with contextlib.suppress(_NotPreparedError):
        return _read(data_dir)
    dataset_dir = data_dir / "flaxrnn_mnist"
    if dataset_dir.exists():
        if strange := _strange(dataset_dir):
            raise UserError(
                f"{strange} is not of the MNIST that this program prepares, so nothing there is removed: move it away, "
                "or pass another --data-dir"
            )
        print(f"The MNIST in {dataset_dir} {reason}; it is made again.", file=sys.stderr)
        shutil.rmtree(dataset_dir)
    print(f"Preparing MNIST in {dataset_dir}")  # progress, no warning: notebooks show stderr in red
    builder = builder_lib.Builder(data_dir=data_dir, file_format="array_record")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it would say that it downloads
        builder.download_and_prepare()
    return _read(data_dir)
