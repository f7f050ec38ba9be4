"""The machine and the versions that figures were measured with."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def describe(*packages: str) -> dict[str, Any]:
    """Processor, cores, Python, allocator, and the versions of JAX and of `packages`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": processor or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "allocator": os.environ.get("GLIBC_TUNABLES") or os.environ.get("LD_PRELOAD") or "the default one",
        "versions": {name: metadata.version(name) for name in ("jax", *dict.fromkeys(packages))},
    }
