"""Reports: the JSON that a benchmark writes, and the pictures drawn from it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

DIGEST = "Report-SHA256"
"""The PNG text field that holds the digest of the report a picture was drawn from."""


def dumps(report: dict[str, Any]) -> str:
    """The report as it is written to a file."""
    return json.dumps(report, indent=1) + "\n"


def digest(report: dict[str, Any]) -> str:
    """Identifies the report, however its JSON is formatted."""
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def save(figure: Figure, path: Path, report: dict[str, Any]) -> None:
    """Writes the picture with the report's digest in its metadata, and closes it."""
    figure.savefig(path, dpi=120, metadata={DIGEST: digest(report)})
    plt.close(figure)
