"""Ctrl-C while a program starts."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MOMENTS = ["numpy", "jaxlib", "jax", "flaxrnn", "optax", "grain", "orbax", "tensorflow_datasets", "matplotlib"]


@pytest.fixture(autouse=True)
def heard():
    """What is started in the background ignores SIGINT, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("module", MOMENTS)
def test_an_interrupted_start_ends_quietly(module, tmp_path):
    """Sent at the first import below `module`, found by `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-m", "train.mnist", "--steps=2", f"--workdir={tmp_path / 'run'}"]
    command.append(f"--data-dir={tmp_path / 'data'}")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wanted = re.compile(rf"\| +{re.escape(module)}(\.|$)")
    said = []
    for line in process.stderr:
        if wanted.search(line.rstrip()):
            process.send_signal(signal.SIGINT)
            break
        if not line.startswith("import time:"):
            said.append(line)
    _, rest = process.communicate(timeout=120)
    said += [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert process.returncode == -signal.SIGINT, said
    assert not said


def test_once_it_runs_it_says_that_it_was_stopped():
    """And a handler that someone else has set is left alone."""
    code = (
        "import os, signal, sys; sys.argv = ['-m']; import train; "
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL; from train.errors import told_to_the_user\n"
        "with told_to_the_user(): os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped\n")
    code = "import signal, train; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv = ['-m']; import train\n"
        "from train.errors import told_to_the_user\n"
        "with told_to_the_user(): assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
