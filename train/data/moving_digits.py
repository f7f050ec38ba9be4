"""Moving MNIST (Srivastava et al. 2015), made smaller: one digit moves about and bounces off the edges."""

import numpy as np

SIZE, DIGIT = 24, 14
"""The width of a frame and of a digit, in pixels."""
FASTEST = 2.0
"""The highest speed along each axis, in pixels per frame."""


def halved(images: np.ndarray) -> np.ndarray:
    """MNIST's images, `[number, 28, 28]` uint8, as `[number, 14, 14]` float32 from 0 to 1."""
    return images.reshape(-1, DIGIT, 2, DIGIT, 2).mean((2, 4), dtype=np.float32) / 255


def clips(digits: np.ndarray, number: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """Draws clips of one digit each.

    Args:
      digits: `[any number, 14, 14]`, from 0 to 1.
      number: how many clips.
      frames: how many frames each has.
      random: draws digits, places and speeds.

    Returns:
      `[number, frames, 24, 24]` float32, from 0 to 1.
    """
    room = SIZE - DIGIT
    start = random.uniform(0, room, (number, 1, 2))
    speed = random.uniform(-FASTEST, FASTEST, (number, 1, 2))
    way = (start + speed * np.arange(frames)[:, None]) % (2 * room)  # there and back
    places = np.rint(np.where(way > room, 2 * room - way, way)).astype(int)
    made = np.zeros((number, frames, SIZE, SIZE), np.float32)
    for clip, digit in enumerate(digits[random.integers(len(digits), size=number)]):
        for frame, (row, column) in zip(made[clip], places[clip], strict=True):
            frame[row : row + DIGIT, column : column + DIGIT] = digit
    return made
