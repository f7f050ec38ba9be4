"""Several devices in one process, and several processes: the same losses as one device."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from train import devices
from train.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = ["--hidden-size=16", "--steps=50", "--batch-size=64", "--layers=2", "--shift=2"]


def start(workdir, data_dir, cpus=1, *options):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(cpus), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [
        sys.executable,
        "-m",
        "train.mnist",
        *OPTIONS,
        f"--workdir={workdir}",
        f"--data-dir={data_dir}",
        *options,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines])


@pytest.fixture(scope="module")
def one_device(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    finish(start(workdir, data_dir))
    return losses(workdir)


@pytest.mark.slow
def test_eight_devices(one_device, data_dir, tmp_path):
    finish(start(tmp_path, data_dir, 8, "--mesh=data:4,model:2"))
    np.testing.assert_allclose(losses(tmp_path), one_device, rtol=0, atol=1e-5)


def processes_of(workdir, data_dir, count, cpus, *options):
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    shared = ["--distributed", f"--coordinator=localhost:{port}", f"--processes={count}", *options]
    return [start(workdir, data_dir, cpus, *shared, f"--process-id={k}") for k in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "cpus", "mesh"), [(2, 2, "data:2,model:2"), (4, 1, "data:4")])
def test_several_processes(count, cpus, mesh, one_device, data_dir, tmp_path):
    """Four devices in all; `gloo` carries what they tell each other."""
    for process in processes_of(tmp_path, data_dir, count, cpus, f"--mesh={mesh}"):
        finish(process)
    np.testing.assert_allclose(losses(tmp_path), one_device, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_one_device_goes_on(one_device, data_dir, tmp_path):
    first, second = processes_of(tmp_path, data_dir, 2, 2, "--checkpoint-every=5")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    said, _ = first.communicate(timeout=120)
    assert first.returncode != 0
    assert "process" in said.lower()
    finish(start(tmp_path, data_dir, 1, "--checkpoint-every=5"))
    np.testing.assert_allclose(losses(tmp_path), one_device, rtol=0, atol=1e-5)


MESHES = {
    "data:3": "--mesh=data:3 has 3 devices, but there are 1",
    "rows:1": "--mesh=rows:1: pass sizes of the axes data and model, such as data:4,model:2",
    "data:0": "--mesh=data:0: pass sizes of the axes",
    "data:x": "--mesh=data:x: pass sizes of the axes",
}


@pytest.mark.parametrize("text", MESHES)
def test_meshes_that_there_are_not(text):
    if text == "data:3" and jax.device_count() != 1:
        pytest.fail("this test is for one device")
    with pytest.raises(UserError, match=MESHES[text]):
        devices.make_mesh(text, 12)
