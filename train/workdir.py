"""The folder in which a run leaves what it did, and from which a run that was broken off goes on."""

import contextlib
import datetime
import functools
import hashlib
import json
import pathlib
from typing import Any, Self

import filelock

from flaxrnn import interop
from flaxrnn.interop.files import write_whole
from train import devices
from train.checkpoints import Checkpoints
from train.errors import UserError
from train.options import RunOptions, flag

PARAMS = "params.safetensors"


class Workdir:
    """The folder of one run.

    It holds `config.json`, `metrics.jsonl` (a line each logged step), checkpoints, `results.json` and pictures. One
    program at a time uses it. Of several processes the first writes.

    Args:
      path: the folder; it is made. If it holds the same run, broken off, that is gone on with.
      numbers: the options that say what is computed.
      config: all options, for `config.json`.
      keep: how many of the last checkpoints are kept.

    Raises:
      UserError: if it cannot be made, is in use, or holds another run or one that is finished.
    """

    def __init__(self, path: pathlib.Path, numbers: dict[str, Any], config: dict[str, Any], keep: int = 2) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []
        self._writes = devices.is_first_process()
        self._lock = filelock.FileLock(path / "lock")
        try:
            if self._writes:
                path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(blocking=False)
                self._claim(_plain(numbers))
                self._write_json("config.json", {**config, "numbers": numbers})
        except filelock.Timeout as error:
            raise UserError(f"the workdir {path} is in use by another program: pass another --workdir") from error
        except OSError as error:
            if path.is_file():
                raise UserError(f"the workdir {path} is a file: pass another --workdir") from error
            raise UserError(f"the workdir {path} cannot be written ({error}): pass another --workdir") from error
        devices.wait_for_all("workdir")
        self._keep = keep

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", self._keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if "checkpoints" in vars(self):
            self.checkpoints.close()
        self._lock.release()

    def _claim(self, numbers: dict[str, Any]) -> None:
        """Raises an error unless the folder is empty, or holds this run, unfinished."""
        before = read_config(self.path)
        if before is None:
            half_written = {entry.name for entry in self.path.glob(".config.json.*")}  # killed in that instant
            if {entry.name for entry in self.path.iterdir()} - half_written - {"lock"}:
                raise UserError(f"the workdir {self.path} holds something else than a run: pass another --workdir")
            return
        known = before["numbers"]
        for name in sorted(known.keys() | numbers.keys()):
            if known.get(name) != numbers.get(name):
                raise UserError(
                    f"the workdir {self.path} holds a run with {flag(name)}={known.get(name)}, not "
                    f"{numbers.get(name)}: pass the same options to go on with it, or another --workdir"
                )
        if is_finished(self.path):
            raise UserError(f"the workdir {self.path} holds this run already, finished: pass another --workdir")

    def resumed(self, step: int) -> None:
        """Keeps of the metrics what was logged up to the step of a checkpoint."""
        self.metrics = [metrics for metrics in read_metrics(self.path) if metrics["step"] <= step]
        if self._writes:
            text = "".join(json.dumps(metrics) + "\n" for metrics in self.metrics)
            write_whole(self.path / "metrics.jsonl", text.encode())

    def write_params(self, params: Any) -> None:
        """Writes what was learned to `params.safetensors`."""
        if self._writes:
            interop.save(self.path / PARAMS, params)

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`, with which a run is finished, and in it by what its parameters are known."""
        if self._writes:
            path = self.path / PARAMS
            known = {PARAMS: digest(path.read_bytes())} if path.exists() else {}
            self._write_json("results.json", results | known)

    def log(self, **metrics: Any) -> None:
        """Adds a line to `metrics.jsonl`."""
        metrics = {key: value if isinstance(value, int | str) else float(value) for key, value in metrics.items()}
        self.metrics.append(metrics)
        if self._writes:
            with (self.path / "metrics.jsonl").open("a" if len(self.metrics) > 1 else "w") as file:
                file.write(json.dumps(metrics) + "\n")

    def _write_json(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=2, default=str) + "\n"
        write_whole(self.path / name, text.encode())


def open_workdir(
    program: str, options: RunOptions, config: dict[str, Any], data: dict[str, Any] | None = None
) -> Workdir:
    """The folder of a run: the one that is asked for, the one to resume, or a new one.

    Args:
      program: what the folder's name begins with, such as `mnist-gru`.
      options: what the program was given, with every default that depends on something else filled in.
      config: what `config.json` says besides.
      data: what else the run is known by, where its options do not say what data it has.
    """
    path = options.workdir
    if options.resume:
        unfinished = [path for path in pathlib.Path("runs").glob(f"{program}-*") if is_unfinished(path)]
        if not unfinished:
            raise UserError(f"--resume: there is no run {program}-... in runs/ that was broken off: leave --resume out")
        path = max(unfinished, key=lambda path: path.stat().st_mtime)
    if path is None and options.distributed:
        raise UserError("--distributed: pass a --workdir that all processes see")
    described = {"program": program.partition("-")[0], **config}
    return Workdir(path or default_path(program), options.numbers() | (data or {}), described, options.keep)


def read_config(path: pathlib.Path) -> dict[str, Any] | None:
    """What `config.json` in a folder holds; None if there is none.

    Raises:
      UserError: if it is not a run's.
    """
    try:
        config = dict(json.loads((path / "config.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path / 'config.json'} cannot be read ({error}): allow it, or pass another folder") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path / 'config.json'} is damaged ({error}): pass another folder") from error
    if not isinstance(config.get("numbers"), dict):
        raise UserError(f"{path / 'config.json'} is that of something else than a run: pass another folder")
    return config


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """What the lines of `metrics.jsonl` in a folder hold; none if there is no such file.

    Lines that are damaged are left out: the last one is half a line where a run was broken off.
    """
    metrics = []
    with contextlib.suppress(FileNotFoundError):
        for line in (path / "metrics.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("step"), int) and "split" in entry:
                    metrics.append(entry)
    return metrics


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """What `results.json` in the folder of a finished run holds.

    Raises:
      UserError: if it is damaged.
    """
    try:
        return dict(json.loads((path / "results.json").read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path / 'results.json'} is damaged ({error}): remove it, and start the run again with "
            f"--workdir={path}, which makes it anew from the last checkpoint"
        ) from error


def digest(content: bytes) -> str:
    """The beginning of the SHA-256 of a file's content, by which it is known again."""
    return hashlib.sha256(content).hexdigest()[:16]


def is_finished(path: pathlib.Path) -> bool:
    """Whether the folder holds a run that came to its end."""
    return (path / "results.json").exists()


def is_unfinished(path: pathlib.Path) -> bool:
    """Whether the folder holds a run that was broken off."""
    return (path / "config.json").exists() and not is_finished(path)


def default_path(name: str) -> pathlib.Path:
    """`runs/NAME-DATE`, with the time of day, so that each run has its own."""
    return pathlib.Path("runs") / f"{name}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return dict(json.loads(json.dumps(numbers, default=str)))
