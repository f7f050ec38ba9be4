"""Python in a process of its own, for tests that need another number of devices than theirs."""

import os
import pathlib
import subprocess
import sys


def run_python(program, devices):
    """Runs a program from the checkout on some CPU devices; its output is in the result's `stdout` and `stderr`."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONWARNINGS": "error::DeprecationWarning:flaxrnn",
    }
    root = pathlib.Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
