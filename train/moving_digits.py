"""Predicts the next frames of a film of moving digits, with two ConvLSTMs: `python -m train.moving_digits`.

The network sees frames of a digit that bounces off the edges, and after each predicts the next one. To continue a film,
it reads its own predictions. At the end a picture shows predictions for test digits.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import flaxrnn
from flaxrnn.cells import ConvLSTM
from train import readout
from train.data import mnist, moving_digits
from train.errors import told_to_the_user
from train.pictures.moving_digits import forecast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Predict the next frames of a film of moving digits."""

    picture: pathlib.Path = pathlib.Path("moving-digits.png")
    """Where to write the picture."""
    channels: int = 16
    """Channels of each of the two ConvLSTMs."""
    window: int = 5
    """The width of their windows, in positions."""
    seen: int = 6
    """Frames that the network sees."""
    predicted: int = 5
    """Frames that it predicts."""
    steps: int = 1500
    """Number of training steps."""
    batch_size: int = 8
    """Films in a training step."""
    learning_rate: float = 5e-3
    """The highest learning rate, of a one-cycle schedule."""
    seed: int = 0
    """Random seed of parameters and films."""
    data_dir: pathlib.Path | None = None
    """The folder of the prepared MNIST; by default that of tensorflow-datasets."""

    def make_layers(self) -> flaxrnn.Stack:
        """The recurrent layers."""
        cell = ConvLSTM(self.channels, (self.window, self.window))
        return flaxrnn.Stack([flaxrnn.RNN(cell), flaxrnn.RNN(cell)])


def predict(config: Config, params: Any, films: jax.Array, state: Any = None) -> tuple[Any, jax.Array]:
    """The state after `films`, `[batch, time, height, width]`, and a prediction of the frame after each, in logits."""
    state, outputs = config.make_layers().apply(params["layers"], films[..., None], initial_state=state)
    return state, readout.read_out(params, outputs)[..., 0]


def loss_of(config: Config, params: Any, films: jax.Array) -> jax.Array:
    """The mean cross entropy of the pixels of each frame but the first.

    The frames after `config.seen` are predicted as in the test, from the network's own predictions: trained on true
    frames alone, it blurs what it reads of its own more and more.
    """
    seen = films[:, : config.seen]
    logits = jnp.concatenate([predict(config, params, seen)[1][:, :-1], go_on(config, params, seen)], axis=1)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, films[:, 1:]))


def go_on(config: Config, params: Any, films: jax.Array) -> jax.Array:
    """The frames after `films`, in logits, `[batch, config.predicted, height, width]`; each is read for the next."""
    state, logits = predict(config, params, films)

    def step(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], jax.Array]:
        state, frame = carry
        state, after = predict(config, params, jax.nn.sigmoid(frame), state)
        return (state, after), frame[:, 0]

    first = state, logits[:, -1:]
    return jnp.moveaxis(jax.lax.scan(step, first, length=config.predicted)[1], 0, 1)


def run(config: Config, console: Console) -> float:
    """Trains, tests and draws; returns the mean squared error on test digits."""
    start = time.perf_counter()
    data, random = mnist.load(config.data_dir), np.random.default_rng(config.seed)
    digits, unseen = moving_digits.halved(data.train.images), moving_digits.halved(data.test.images)
    frames = config.seen + config.predicted
    schedule = optax.cosine_onecycle_schedule(config.steps, config.learning_rate, pct_start=0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    params = readout.init(config.make_layers(), jax.random.key(config.seed), input_size=1, answers=1)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, films: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, gradient = jax.value_and_grad(functools.partial(loss_of, config))(params, films)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    for number in range(1, config.steps + 1):
        films = moving_digits.clips(digits, config.batch_size, frames, random)
        params, state, loss = step(params, state, films)
        if number % 20 == 0 or number == config.steps:
            console.print(f"step {number}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s", highlight=False)

    films = moving_digits.clips(unseen, 64, frames, np.random.default_rng(config.seed))
    seen, true = np.split(films, [config.seen], axis=1)
    predicted = np.asarray(jax.nn.sigmoid(jax.jit(functools.partial(go_on, config))(params, seen)))
    errors = [float(np.mean((guess - true) ** 2)) for guess in (predicted, seen[:, -1:], 0 * true)]
    console.print(
        "mean squared error of {} predicted frames: {:.4f}; of the last frame seen: {:.4f}; of black: {:.4f}".format(
            config.predicted, *errors
        ),
        highlight=False,
    )
    forecast(config.picture, films[:2], predicted[:2])
    return errors[0]


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Config, prog="python -m train.moving_digits"), Console())


if __name__ == "__main__":
    main()
