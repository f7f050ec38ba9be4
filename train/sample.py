"""Writes text with a finished run of train.charlm: `python -m train.sample runs/charlm-lstm-DATE --temperature=0.5`."""

import dataclasses
import pathlib

import tyro
from rich.console import Console

from train import charlm, runs
from train.errors import UserError, told_to_the_user


@dataclasses.dataclass(frozen=True)
class Options:
    """Write text with a character language model."""

    workdir: tyro.conf.Positional[pathlib.Path]
    """Where a run of train.charlm left its results."""
    sample: int = charlm.Config.sample
    """How many characters to write."""
    temperature: float = charlm.Config.temperature
    """How daringly: at 0 always the likeliest character, at 1 as often as the model says."""
    prompt: str = charlm.PROMPT
    """How the text begins."""
    seed: int = 0
    """The same seed gives the same text."""


def run(options: Options, console: Console) -> str:
    """Writes as `options` say, and returns what was written, with the prompt."""
    trained, params = runs.load(charlm.Config, options.workdir)
    given = dataclasses.asdict(options)
    config = dataclasses.replace(trained, **{name: given[name] for name in (*charlm.SAMPLING, "seed")})
    config.check()
    try:
        characters = (options.workdir / charlm.CHARACTERS).read_bytes().decode()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"the run in {options.workdir} cannot be read: {charlm.CHARACTERS}: {error}") from error
    runs.check_unchanged(options.workdir, charlm.CHARACTERS)
    text = config.prompt + charlm.write(config, config.make_task(len(characters)), params, characters)
    console.print(text, highlight=False, markup=False)
    return text


def main() -> None:
    """The program."""
    with told_to_the_user():
        run(tyro.cli(Options, prog="python -m train.sample"), Console())


if __name__ == "__main__":
    main()
