"""A character language model: `python -m train.charlm --text FILE`, or without a file on *Pride and Prejudice*.

It learns to say which character comes next, reading the text in parallel streams whose state is carried from batch to
batch (truncated backpropagation through time), and says how many bits a character of the unseen end of the text costs
it, beside a 5-gram model; then it writes some text of its own.
"""

import dataclasses
import functools
import math
import pathlib
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import flaxrnn
from flaxrnn.layers import drop, split_key
from train import devices, readout
from train.data import text as texts
from train.errors import UserError, told_to_the_user
from train.launch import launch
from train.network import CellName, NetworkOptions
from train.options import check_positive, default
from train.report import show
from train.workdir import digest, open_workdir

CHARACTERS = "characters.txt"
SAMPLING = ("sample", "temperature", "prompt")
PROMPT = "It is a truth universally acknowledged, that "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NetworkOptions):
    """Train a character language model."""

    cell: CellName = "lstm"
    """What happens in one time step."""
    hidden_size: int = 256
    """Features of the hidden state."""
    text: Annotated[pathlib.Path | None, default("default: Pride and Prejudice")] = None
    """A text in UTF-8; its first 90% is for training, the next 5% for validation, the last 5% for the test."""
    batch_size: int = 64
    """Streams that are read beside each other."""
    unroll: int = 100
    """Characters of a stream in a training step, through which the gradient goes back."""
    steps: int = 2000
    """How many training steps to do."""
    dropout: float = 0.2
    """How many features are dropped between the layers, and before the last dense one."""
    learning_rate: float = 1e-2
    """The highest learning rate; it goes up to it and then down, once."""
    sample: int = 400
    """How many characters to write at the end."""
    temperature: float = 0.8
    """How daringly: at 0 always the likeliest character, at 1 as often as the model says."""
    prompt: str = PROMPT
    """How the sample begins."""

    def numbers(self) -> dict[str, Any]:
        """The options that say what is learned: not those of the sample, and not the text, of which `source` tells."""
        return {name: value for name, value in super().numbers().items() if name not in (*SAMPLING, "text")}

    def check(self) -> None:
        """Raises a `UserError` unless the numbers can be trained with."""
        super().check()
        check_positive(self, "unroll", "steps", "learning_rate")
        if not 0 <= self.sample < 2**31:
            raise UserError(f"--sample={self.sample}: pass a number of characters, or 0 for none")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature={self.temperature}: pass 0 or a positive number")
        if not self.prompt:
            raise UserError("--prompt is empty: pass the beginning of a text")

    def load_text(self) -> texts.Text:
        """The text that the options name."""
        return texts.load(self.text, self.batch_size * self.unroll + 1)

    def make_task(self, answers: int) -> "LanguageModel":
        """The model of a text of so many characters that the options describe."""
        return LanguageModel(self.make_layers(), answers, self.batch_size, self.strategy, self.precision)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Recurrent layers over one-hot characters, and a dense layer that gives the logits of the next one.

    Attributes:
      layers: the recurrent layers.
      characters: how many there are.
      batch_size: how many streams are trained on.
      strategy, precision: as in `train.classifier.Classifier`.
    """

    layers: flaxrnn.Stack
    characters: int
    batch_size: int
    strategy: str = "auto"
    precision: str = "float32"

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draws the parameters."""
        return readout.init(self.layers, key, self.characters, self.characters)

    def carry(self) -> Any:
        """The state with which each stream begins."""
        return self.layers.initial_state((self.batch_size,), self.precision)

    def apply(
        self, params: dict[str, Any], state: Any, inputs: jax.Array, resets: Any = None, key: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """The state after `inputs` `[batch, time]`, and the logits `[batch, time, characters]` of what comes next."""
        layers_key, dense_key = split_key(key)
        params = jax.tree.map(lambda leaf: leaf.astype(self.precision), params)
        seen = jax.nn.one_hot(inputs, self.characters, dtype=self.precision)
        state, outputs = self.layers.apply(
            params["layers"], seen, initial_state=state, resets=resets, key=layers_key, strategy=self.strategy
        )
        outputs = drop(dense_key, outputs, self.layers.dropout)
        return state, readout.read_out(params, outputs)

    def loss(
        self, params: dict[str, Any], carry: Any, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The mean cross entropy of a character, in nats, and in bits."""
        state, logits = self.apply(params, carry, batch.inputs, batch.resets, key)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets))
        return loss, (state, {"bits": loss / math.log(2)})


def score(config: Config, params: dict[str, Any], split: str) -> dict[str, float]:
    """The mean cross entropy of a character of a part of the text, in nats ("loss") and in bits."""
    text = config.load_text()
    return measure(config.make_task(len(text.characters)), params, getattr(text, split))


def source(config: Config, text: texts.Text | None = None) -> dict[str, str]:
    """By what a run's text is known again; `text` where it has been read already."""
    name = config.text.name if config.text else "Pride and Prejudice"
    return {"text": f"{name}, {(text or config.load_text()).digest}"}


def measure(model: LanguageModel, params: dict[str, Any], text: np.ndarray) -> dict[str, float]:
    """The mean cross entropy of a character of `text` `[length]`, in nats ("loss") and in bits."""
    loss = float(evaluate(model, jax.device_put(params), text))
    return {"loss": loss, "bits": loss / math.log(2)}


@functools.partial(jax.jit, static_argnames="model")
def evaluate(model: LanguageModel, params: dict[str, Any], text: jax.Array) -> jax.Array:
    """The mean cross entropy of a character of `text` `[length]`, read from beginning to end, in nats."""
    _, logits = model.apply(params, model.layers.initial_state((1,), model.precision), text[None, :-1])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits[0], text[1:]))


@functools.partial(jax.jit, static_argnames=("model", "length"))
def sample(
    model: LanguageModel, params: dict[str, Any], prompt: jax.Array, length: int, temperature: float, key: jax.Array
) -> jax.Array:
    """Writes `length` characters after `prompt` `[characters]`, one after the other."""
    state, logits = model.apply(params, model.layers.initial_state((1,), model.precision), prompt[None])

    def step(before: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        state, logits = before
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        number = jnp.where(temperature > 0, drawn, jnp.argmax(logits))
        state, logits = model.apply(params, state, number[None, None])
        return (state, logits[0, -1].at[0].set(-jnp.inf)), number  # the first stands for what it has never seen

    begin = logits[0, -1].at[0].set(-jnp.inf)
    return jax.lax.scan(step, (state, begin), jax.random.split(key, length))[1]


def run(config: Config, console: Console) -> dict[str, Any]:
    """Trains and evaluates as `config` says; returns what `results.json` holds."""
    start = time.perf_counter()
    config.check()
    config.make_cell()
    text = config.load_text()
    devices.join_processes(config)
    mesh = devices.make_mesh(config.mesh, config.batch_size)
    model = config.make_task(len(text.characters))
    described = dataclasses.asdict(config) | {"text": config.text and config.text.absolute()}
    with open_workdir(f"charlm-{config.cell}", config, described, source(config, text)) as workdir:
        if devices.is_first_process():
            (workdir.path / CHARACTERS).write_bytes(text.characters.encode())
        console.print(
            f"workdir: {workdir.path}\n{model.layers}\n"
            f"{len(text.train):,} characters of {len(text.characters) - 1} kinds",
            highlight=False,
        )
        params = launch(
            model,
            texts.batches(text.train, config.batch_size, config.unroll, devices.local_rows(config.batch_size)),
            lambda params: measure(model, params, text.validation),
            options=config,
            workdir=workdir,
            mesh=mesh,
            console=console,
            steps=config.steps,
            learning_rate=config.learning_rate,
            validate_every=max(1, config.steps // 20),
        )
        baseline = texts.ngram_bits(text.train, text.test, len(text.characters))
        seconds = round(time.perf_counter() - start, 2)
        bits = measure(model, params, text.test)["bits"]
        results = {"test_bits": bits, "five_gram_bits": baseline, "steps": config.steps, "seconds": seconds}
        if devices.is_first_process():
            rows = {"test": f"{bits:.3f} bits a character", "5-gram model": f"{baseline:.3f} bits a character"}
            show(console, rows | {"time": f"{seconds:.0f} s", "workdir": str(workdir.path)})
            if config.sample:
                written = config.prompt + write(config, model, params, text.characters)
                (workdir.path / "sample.txt").write_text(written + "\n", encoding="utf-8")
                console.print(written, highlight=False, markup=False)
        workdir.write_results(results | {CHARACTERS: digest(text.characters.encode())})
    return results


def write(config: Config, model: LanguageModel, params: Any, characters: str) -> str:
    """What the model writes after the prompt."""
    prompt = texts.encode(characters, config.prompt)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    numbers = sample(model, jax.device_put(params), prompt, config.sample, config.temperature, key)
    return "".join(characters[number] for number in np.asarray(numbers))


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Config, prog="python -m train.charlm", config=(tyro.conf.DisallowNone,)), Console())


if __name__ == "__main__":
    main()
