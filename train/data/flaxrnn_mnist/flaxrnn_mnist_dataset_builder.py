"""The builder: from the four IDX files of the original distribution to a dataset of tensorflow-datasets."""

import gzip
import hashlib
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from train.errors import UserError

FILES = pathlib.Path(__file__).parent
# SHA-256 of the uncompressed files, those of the original distribution
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Builder(tfds.core.GeneratorBasedBuilder):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, in their original order."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The four files of the original distribution."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(28, 28), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {"train": self._generate_examples("train"), "test": self._generate_examples("t10k")}

    def _generate_examples(self, prefix: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images = read_idx(f"{prefix}-images-idx3-ubyte")
        labels = read_idx(f"{prefix}-labels-idx1-ubyte")
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield number, {"image": image, "label": int(label)}


def read_idx(name: str) -> np.ndarray:
    """Reads one of the four files.

    Raises:
      UserError: if its content is not that of the original distribution.
    """
    path = FILES / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it with git checkout {path}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise UserError(
            f"{path} is damaged (SHA-256 {digest}, not {SHA256[name]}): restore it with git checkout {path}"
        )
    return from_idx(content)


def from_idx(content: bytes) -> np.ndarray:
    """The array in an IDX file of bytes: two zeros, type 8, the number of axes, each axis as 4 bytes, the entries."""
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def to_idx(array: np.ndarray) -> bytes:
    """The content of the IDX file that `from_idx` reads `array`, bytes, from."""
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, ">i4").tobytes() + array.tobytes()
