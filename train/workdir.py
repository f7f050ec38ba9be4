"""The folder in which a run leaves what it did."""

import datetime
import json
import os
import pathlib
from typing import Any

from train.errors import UserError


class Workdir:
    """The folder of one run.

    It holds `config.json`, `metrics.jsonl` (a line each logged step), `results.json` and pictures.

    Args:
      path: the folder; it is made, and must not hold a run already.

    Raises:
      UserError: if it cannot be made, or holds a run.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "metrics.jsonl").open("x").close()  # the claim: of two programs one makes it
        except FileExistsError as error:
            what = "is a file" if path.is_file() else "holds a run already"
            raise UserError(f"the workdir {path} {what}: pass another --workdir") from error
        except OSError as error:
            raise UserError(f"the workdir {path} cannot be written ({error}): pass another --workdir") from error
        self.metrics: list[dict[str, Any]] = []

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes `config.json`."""
        self._write_json("config.json", config)

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`."""
        self._write_json("results.json", results)

    def log(self, **metrics: Any) -> None:
        """Adds a line to `metrics.jsonl`."""
        metrics = {key: value if isinstance(value, int | str) else float(value) for key, value in metrics.items()}
        self.metrics.append(metrics)
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def _write_json(self, name: str, content: Any) -> None:
        unfinished = self.path / f"{name}.unfinished"
        unfinished.write_text(json.dumps(content, indent=2, default=str) + "\n")
        os.replace(unfinished, self.path / name)


def default_path(name: str) -> pathlib.Path:
    """`runs/NAME-DATE`, with the time of day, so that each run has its own."""
    return pathlib.Path("runs") / f"{name}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
