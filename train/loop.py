"""The training loop, the optimizer, and evaluation."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

from train.classifier import Classifier
from train.data.mnist import Batch, Split, to_float
from train.errors import UserError

EVALUATION_BATCH = 1_000


class Reporter(Protocol):
    """Who is told how the training goes."""

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the mean loss and accuracy since the last call, the learning rate, and the seconds since the start."""

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the loss and the accuracy on the validation set."""


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


def make_optimizer(learning_rate: float, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam, with gradients clipped to a norm of 1, and a learning rate that goes up and down once (Smith & Topin 2017).

    Args:
      learning_rate: the highest.
      steps: for how many steps. The highest is reached after a fifth of them; it begins at a 25th, and ends near zero.
    """
    schedule = optax.cosine_onecycle_schedule(max(steps, 2), learning_rate, pct_start=0.2)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99)), schedule


def train(
    classifier: Classifier,
    params: dict[str, Any],
    batches: Iterable[Batch],
    validation: Split,
    *,
    learning_rate: float,
    steps: int,
    log_every: int,
    validate_every: int,
    key: jax.Array,
    reporter: Reporter,
) -> dict[str, Any]:
    """Trains for `steps` steps and returns the parameters."""
    optimizer, schedule = make_optimizer(learning_rate, steps)
    optimizer_state = optimizer.init(params)
    step = make_step(classifier, optimizer)
    start, window = time.perf_counter(), []
    for number, batch in zip(range(1, steps + 1), batches, strict=False):
        params, optimizer_state, metrics = step(params, optimizer_state, batch, key, number)
        window.append(metrics)
        if number % log_every == 0 or number == steps:
            loss, accuracy = np.mean(jax.device_get(window), axis=0)
            if not np.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {number}: pass a lower --learning-rate")
            seconds = time.perf_counter() - start
            rate = float(schedule(number - 1))
            reporter.train(number, dict(loss=loss, accuracy=accuracy, learning_rate=rate, seconds=seconds))
            window = []
        if number % validate_every == 0 or number == steps:
            result = evaluate(classifier, params, validation)
            reporter.validation(number, dict(loss=result.loss, accuracy=result.accuracy))
    return params


def make_step(classifier: Classifier, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of training, compiled, from `(params, optimizer_state, batch, key, number)`.

    It gives `(params, optimizer_state, metrics)`; the first two are donated.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Any, optimizer_state: Any, batch: Batch, key: jax.Array, number: int
    ) -> tuple[Any, Any, tuple[jax.Array, jax.Array]]:
        value_and_grad = jax.value_and_grad(classifier.loss, has_aux=True)
        step_key = jax.random.fold_in(key, number)
        (loss, accuracy), gradient = value_and_grad(params, batch.images, batch.labels, step_key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, (loss, accuracy)

    return step


@functools.partial(jax.jit, static_argnames="classifier")
def log_probabilities(classifier: Classifier, params: dict[str, Any], images: jax.Array) -> jax.Array:
    """The logarithm of what the network gives to each class."""
    return jax.nn.log_softmax(classifier.apply(params, images))


def evaluate(classifier: Classifier, params: dict[str, Any], split: Split) -> Evaluation:
    """What the network makes of every image of `split`."""
    starts = range(0, len(split.labels), EVALUATION_BATCH)
    parts = [
        log_probabilities(classifier, params, to_float(split.images[start : start + EVALUATION_BATCH]))
        for start in starts
    ]
    logs = np.concatenate(jax.device_get(parts))
    loss = -np.mean(logs[np.arange(len(logs)), split.labels])
    accuracy = np.mean(np.argmax(logs, axis=-1) == split.labels)
    return Evaluation(float(loss), float(accuracy), np.exp(logs))
