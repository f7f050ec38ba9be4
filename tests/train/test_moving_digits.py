"""The films, and the program that continues them."""

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from tests.compare import assert_close, assert_equal, normal
from train import moving_digits as program
from train import readout
from train.data import moving_digits


def test_a_digit_moves_evenly_and_bounces():
    digits = np.zeros([1, 14, 14], np.float32)
    digits[0, 0, 0] = digits[0, -1, -1] = 1  # two corners
    films = moving_digits.clips(digits, 20, 40, np.random.default_rng(0))
    assert films.shape == (20, 40, 24, 24)
    assert np.all(films.sum((2, 3)) == 2)  # the whole digit at every moment
    for places in (films.max(3).argmax(2), films.max(2).argmax(2)):
        moves = np.diff(places)
        assert np.abs(moves).max() <= moving_digits.FASTEST + 1
        assert (places.min(), places.max()) == (0, 10)
        slow = np.abs(np.diff(moves)) <= 1  # it keeps its speed, but for rounding and where it bounces
        assert np.mean(slow) > 0.8
    again = moving_digits.clips(digits, 20, 40, np.random.default_rng(0))
    assert_equal(films, again)


def test_halved():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    halved = moving_digits.halved(images)
    assert halved.dtype == np.float32
    np.testing.assert_allclose(halved[1, 3, 5], images[1, 6:8, 10:12].mean() / 255, rtol=1e-6)


def test_it_goes_on_by_what_it_has_predicted():
    config = program.Config(channels=2, predicted=3)
    params = readout.init(config.make_layers(), jax.random.key(0), 1, 1)
    films = jnp.asarray(normal(0, 2, 4, 8, 12))
    expected = films
    for _ in range(3):
        _, logits = program.predict(config, params, expected)
        expected = jnp.concatenate([expected, jax.nn.sigmoid(logits[:, -1:])], axis=1)
    assert_close(jax.nn.sigmoid(program.go_on(config, params, films)), expected[:, 4:])


def test_the_program(data_dir, tmp_path):
    path = tmp_path / "films.png"
    console = Console(record=True, width=200)
    options = dict(channels=4, window=3, seen=3, predicted=2, batch_size=4, data_dir=data_dir, picture=path)
    error = program.run(program.Config(steps=60, **options), console)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"mean squared error of 2 predicted frames: {error:.4f}" in console.export_text()
    assert error < 0.1  # at first every pixel is about a half, which is 0.2
