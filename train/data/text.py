"""A text as parallel streams of characters, and what a model that only counts makes of it."""

import collections
import dataclasses
import hashlib
import math
import pathlib
from typing import NamedTuple

import grain
import numpy as np

from train.errors import UserError

AUSTEN = pathlib.Path(__file__).parent / "austen" / "pride_and_prejudice.txt"
"""*Pride and Prejudice* by Jane Austen, 1813, in the public domain."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
SHARES = 0.9, 0.05
"""How much of a text, from its beginning, is for training, and how much after that for validation."""


class Text(NamedTuple):
    """A text in three parts, as numbers of characters.

    Attributes:
      characters: the characters of the training part, each one's number its place; the first stands for all others.
      train, validation, test: `[length]` int32.
      digest: the beginning of the text's SHA-256, by which it is known again.
    """

    characters: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    digest: str


class Batch(NamedTuple):
    """What one training step sees: the next characters of each stream.

    Attributes:
      inputs: `[batch, time]` int32.
      targets: `[batch, time]` int32, each the character after that of `inputs`.
      resets: `[batch, time]`, True where a stream begins again.
    """

    inputs: np.ndarray
    targets: np.ndarray
    resets: np.ndarray


def load(path: pathlib.Path | None, shortest: int) -> Text:
    """Reads a text, and divides it: first 90% for training, next 5% for validation, last 5% for the test.

    Args:
      path: a file in UTF-8; None for *Pride and Prejudice*.
      shortest: how many characters the training part is to have at least.

    Raises:
      UserError: if there is no such text.
    """
    try:
        text = (path or AUSTEN).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text={path} cannot be read ({error}): pass a text file in UTF-8") from error
    first, second = round(SHARES[0] * len(text)), round(sum(SHARES) * len(text))
    if first < shortest or min(second - first, len(text) - second) < 2:  # one character predicts nothing
        raise UserError(
            f"the text has {len(text):,} characters, too few for --batch-size and --unroll, which take {shortest:,} "
            "for training: pass a longer one, or smaller numbers"
        )
    characters = UNKNOWN + "".join(sorted(set(text[:first]) - {UNKNOWN}))
    train, validation, test = (encode(characters, part) for part in (text[:first], text[first:second], text[second:]))
    return Text(characters, train, validation, test, hashlib.sha256(text.encode()).hexdigest()[:16])


def encode(characters: str, text: str) -> np.ndarray:
    """The numbers of a text's characters, 0 for those that are not among `characters`."""
    numbers = {character: number for number, character in enumerate(characters)}
    return np.array([numbers.get(character, 0) for character in text], np.int32)


@dataclasses.dataclass(frozen=True)
class Streams:
    """A source for grain: `batch_size` streams through the text, from places of their own, `unroll` characters each."""

    text: np.ndarray
    batch_size: int
    unroll: int

    def __len__(self) -> int:
        return 2**31 - 1  # more than anyone will train for

    def __getitem__(self, number: int) -> Batch:
        length = (len(self.text) - 1) // self.batch_size
        within = (number * self.unroll + np.arange(self.unroll)) % length
        places = np.arange(self.batch_size)[:, None] * length + within
        return Batch(self.text[places], self.text[places + 1], np.broadcast_to(within == 0, places.shape))


def batches(text: np.ndarray, batch_size: int, unroll: int, rows: slice = slice(None)) -> grain.IterDataset:
    """Endless batches of streams that go on from one to the next. Of several processes each reads its own `rows`."""
    source = grain.MapDataset.source(Streams(text, batch_size, unroll))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    return source.map(lambda batch: Batch(*(array[rows] for array in batch))).to_iter_dataset(options)


def ngram_bits(train: np.ndarray, test: np.ndarray, characters: int, order: int = 5) -> float:
    """The bits that a character of `test` costs under an n-gram model of `train`, which sees the `order - 1` before it.

    Orders are interpolated as in Witten & Bell 1991: p(c | s) = (count(s c) + kinds(s) p(c | shorter s)) / (count(s) +
    kinds(s)), where kinds(s) is how many different characters have followed s; at the bottom all are alike.
    """
    counts: list[dict[bytes, collections.Counter[int]]] = [
        collections.defaultdict(collections.Counter) for _ in range(order)
    ]
    for size in range(order):
        for place in range(size, len(train)):
            counts[size][train[place - size : place].tobytes()][int(train[place])] += 1
    totals = [{context: sum(after.values()) for context, after in one.items()} for one in counts]
    bits = 0.0
    for place in range(1, len(test)):
        chance = 1 / characters
        for size in range(min(order, place + 1)):
            context = test[place - size : place].tobytes()
            if context not in totals[size]:
                break
            after, kinds = counts[size][context], len(counts[size][context])
            chance = (after[int(test[place])] + kinds * chance) / (totals[size][context] + kinds)
        bits -= math.log2(chance)
    return bits / (len(test) - 1)
