"""What a classifier makes of a whole set of images."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from train.classifier import Classifier
from train.data.mnist import Split, to_float

BATCH = 1_000


class Evaluation(NamedTuple):
    """What a network makes of a set of images.

    Attributes:
      loss: the mean cross entropy.
      accuracy: the share that is classified rightly.
      probabilities: `[number, classes]`, what it gives to each class.
    """

    loss: float
    accuracy: float
    probabilities: np.ndarray

    def metrics(self) -> dict[str, float]:
        """The loss and the accuracy."""
        return {"loss": self.loss, "accuracy": self.accuracy}


@functools.partial(jax.jit, static_argnames="classifier")
def log_probabilities(classifier: Classifier, params: dict[str, Any], images: jax.Array) -> jax.Array:
    """The logarithm of what the network gives to each class."""
    return jax.nn.log_softmax(classifier.apply(params, images))


def evaluate(classifier: Classifier, params: dict[str, Any], split: Split) -> Evaluation:
    """What the network makes of every image of `split`."""
    starts = range(0, len(split.labels), BATCH)
    params = jax.device_put(params)
    parts = [log_probabilities(classifier, params, to_float(split.images[start : start + BATCH])) for start in starts]
    logs = np.concatenate(jax.device_get(parts))
    loss = -np.mean(logs[np.arange(len(logs)), split.labels])
    accuracy = np.mean(np.argmax(logs, axis=-1) == split.labels)
    return Evaluation(float(loss), float(accuracy), np.exp(logs))
