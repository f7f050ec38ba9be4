"""The two classic tests of long-range memory, drawn at random as they are needed."""

from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np

SYMBOLS, COPIED = 8, 10
"""How many kinds of symbols the copy task has, and how many of them are to be remembered."""


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
      inputs: `[batch, time, features]` float32.
      targets: what is asked at the end: `[batch]` float32, or at each step `[batch, time]` int32.
    """

    inputs: np.ndarray
    targets: np.ndarray


def adding(batch_size: int, length: int, generator: np.random.Generator) -> Batch:
    """The sum of the two numbers of a sequence that are marked (Hochreiter & Schmidhuber 1997, experiment 4).

    As in Arjovsky et al. 2016 the numbers are uniform from 0 to 1, one is marked in each half, and the answer is asked
    after the last step. To answer 1 always has a mean squared error of 1/6.
    """
    numbers = generator.random((batch_size, length), np.float32)
    marks = np.zeros_like(numbers)
    rows, half = np.arange(batch_size), length // 2
    first, second = generator.integers(0, half, batch_size), generator.integers(half, length, batch_size)
    marks[rows, first] = marks[rows, second] = 1
    return Batch(np.stack([numbers, marks], axis=-1), numbers[rows, first] + numbers[rows, second])


def copy(batch_size: int, length: int, generator: np.random.Generator) -> Batch:
    """Ten symbols, to be repeated `length` steps later (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016).

    The sequence is ten symbols of eight kinds, `length - 1` blanks, a mark and ten blanks; the answer is blanks and,
    after the mark, the ten symbols. To answer blanks, and then symbols at random, has a cross entropy of
    10 log(8) / (length + 20).
    """
    symbols = generator.integers(1, SYMBOLS + 1, (batch_size, COPIED))
    seen = np.zeros((batch_size, length + 2 * COPIED), np.int32)
    seen[:, :COPIED] = symbols
    seen[:, COPIED + length - 1] = SYMBOLS + 1
    targets = np.zeros_like(seen)
    targets[:, -COPIED:] = symbols
    return Batch(np.eye(SYMBOLS + 2, dtype=np.float32)[seen], targets)


TASKS: dict[str, Callable[[int, int, np.random.Generator], Batch]] = {"adding": adding, "copy": copy}


def baseline(task: str, length: int) -> float:
    """The loss of a network that remembers nothing."""
    return 1 / 6 if task == "adding" else COPIED * float(np.log(SYMBOLS)) / (length + 2 * COPIED)


def batches(task: str, batch_size: int, length: int, seed: int, rows: slice = slice(None)) -> grain.IterDataset:
    """Endless batches; the same seed gives the same ones. Of several processes each reads its own `rows` of them."""

    def draw(number: int, generator: np.random.Generator) -> Batch:
        del number
        return Batch(*(array[rows] for array in TASKS[task](batch_size, length, generator)))

    numbers = grain.MapDataset.range(2**31 - 1).seed(seed)
    return numbers.random_map(draw).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=16))
