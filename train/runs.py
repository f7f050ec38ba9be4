"""A finished run, read from its workdir."""

import dataclasses
import pathlib
import types
import typing
from typing import Any, TypeVar

import jax

from flaxrnn import interop
from flaxrnn.interop.arrays import Arrays, flatten, unflatten
from train.errors import UserError
from train.network import NetworkOptions
from train.options import flag
from train.workdir import PARAMS, digest, is_finished, read_config, read_results

Options = TypeVar("Options", bound=NetworkOptions)


def program(workdir: pathlib.Path) -> str:
    """Which program a run is of, such as "mnist".

    Raises:
      UserError: if there is no run.
    """
    return str(_config(workdir)["program"])


def load(kind: type[Options], workdir: pathlib.Path) -> tuple[Options, dict[str, Any]]:
    """The options of a finished run, and the parameters that it ended with.

    Raises:
      UserError: if there is no such run, or it is not finished, or its files are damaged or of another program.
    """
    config = _config(workdir)
    if not is_finished(workdir):
        raise UserError(
            f"the run in {workdir} was broken off: finish it first, by the same command with --workdir={workdir}"
        )
    path = workdir / "config.json"
    names = {field.name: field.type for field in dataclasses.fields(kind)}
    if missing := names.keys() - config.keys():
        raise UserError(
            f"{workdir} holds a run of train.{config['program']}, which has no {flag(min(missing))}: pass another"
        )
    options = kind(**{name: _typed(path, name, names[name], config[name]) for name in names})
    try:
        options.check()
        options.make_cell()
    except UserError as error:
        raise UserError(f"{path} does not hold what a run has: {error}") from error
    try:
        arrays = interop.load(workdir / PARAMS)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"the run in {workdir} cannot be read: {error}") from error
    _check_shapes(workdir, options, arrays)
    check_unchanged(workdir, PARAMS)
    _check_numbers(path, options, config["numbers"])
    return options, unflatten(arrays)


def check_unchanged(workdir: pathlib.Path, name: str) -> None:
    """Raises a `UserError` unless a file of a finished run is the one that `results.json` tells of."""
    if read_results(workdir).get(name) != digest((workdir / name).read_bytes()):
        raise UserError(
            f"{workdir / name} is not the one that the run has left: bring that back, or remove results.json and start "
            f"the run again with --workdir={workdir}, which writes it anew"
        )


def numbers(workdir: pathlib.Path) -> dict[str, Any]:
    """By what a run is known: the options that say what it computes, and what else tells its data from others."""
    return dict(_config(workdir)["numbers"])


def _config(workdir: pathlib.Path) -> dict[str, Any]:
    """What `config.json` in the workdir of a single run holds."""
    config = read_config(workdir)
    if config is None:
        raise UserError(f"{workdir} holds no run: pass a workdir that has a config.json, such as runs/mnist-gru-DATE")
    if "program" not in config or "cells" in config:
        raise UserError(f"{workdir} holds no single run: pass the workdir of one, such as runs/mnist-gru-DATE")
    return config


def _typed(path: pathlib.Path, name: str, annotation: Any, value: Any) -> Any:
    """A value from the JSON in `path` as what its field is to hold."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal and value in typing.get_args(annotation):
        return value
    for kind in typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,):
        if kind is pathlib.Path and isinstance(value, str):
            return pathlib.Path(value)
        if type(value) is kind or (kind is float and type(value) is int):
            return value
    wanted = annotation.__name__ if isinstance(annotation, type) else annotation
    raise UserError(f"{path} has {name} = {value!r}, which is not of {wanted}: bring its former value back")


def _check_numbers(path: pathlib.Path, options: NetworkOptions, known: dict[str, Any]) -> None:
    """Raises an error unless the options are those that the run is known by."""
    for name, value in options.numbers().items():
        if known.get(name) != value:
            raise UserError(
                f"{path} has {name} = {value!r}, and under numbers {known.get(name)!r}: bring back what the run had"
            )


def _check_shapes(workdir: pathlib.Path, options: NetworkOptions, arrays: Arrays) -> None:
    """Raises an error unless `arrays` have the names, shapes and types of what the options describe."""
    answers = arrays["dense/bias"].size if "dense/bias" in arrays else 0
    network = options.make_task(max(answers, 1))
    expected = {
        name: _described(leaf) for name, leaf in flatten(jax.eval_shape(network.init, jax.random.key(0))).items()
    }
    found = {name: _described(array) for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{workdir / PARAMS} has {found.get(name, 'no array')} as {name}, but the network that "
                f"{workdir / 'config.json'} describes has {expected.get(name, 'none')}: bring back the files of one run"
            )


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
