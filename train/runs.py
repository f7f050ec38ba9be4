"""A finished run, read from its workdir."""

import dataclasses
import pathlib
import types
import typing
from typing import Any, TypeVar

from flaxrnn import interop
from flaxrnn.interop.arrays import unflatten
from train.errors import UserError
from train.options import RunOptions, flag
from train.workdir import PARAMS, is_finished, read_config

Options = TypeVar("Options", bound=RunOptions)


def program(workdir: pathlib.Path) -> str:
    """Which program a run is of, such as "mnist".

    Raises:
      UserError: if there is no run.
    """
    return str(_config(workdir)["program"])


def load(kind: type[Options], workdir: pathlib.Path) -> tuple[Options, dict[str, Any]]:
    """The options of a finished run, and the parameters that it ended with.

    Raises:
      UserError: if there is no such run, or it is not finished, or its files are of another program.
    """
    config = _config(workdir)
    if not is_finished(workdir):
        raise UserError(
            f"the run in {workdir} was broken off: finish it first, by the same command with --workdir={workdir}"
        )
    names = {field.name: field.type for field in dataclasses.fields(kind)}
    if missing := names.keys() - config.keys():
        raise UserError(
            f"{workdir} holds a run of train.{config['program']}, which has no {flag(min(missing))}: pass another"
        )
    try:
        params = unflatten(interop.load(workdir / PARAMS))
        return kind(**{name: _typed(names[name], config[name]) for name in names}), params
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise UserError(f"the run in {workdir} cannot be read: {error}") from error


def _config(workdir: pathlib.Path) -> dict[str, Any]:
    """What `config.json` in the workdir of a single run holds."""
    config = read_config(workdir)
    if config is None:
        raise UserError(f"{workdir} holds no run: pass a workdir that has a config.json, such as runs/mnist-gru-DATE")
    if "program" not in config or "cells" in config:
        raise UserError(f"{workdir} holds no single run: pass the workdir of one, such as runs/mnist-gru-DATE")
    return config


def _typed(annotation: Any, value: Any) -> Any:
    """A value from JSON as the path that its field is to hold, where it is one."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return pathlib.Path(value) if pathlib.Path in kinds and value is not None else value
