"""Runs that are broken off, in every way, and gone on with."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from flaxrnn import interop
from tests.compare import assert_equal
from tests.train.conftest import broken_off, quickly
from train import mnist
from train.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = {"hidden_size": 16, "steps": 60, "dropout": 0.1, "checkpoint_every": 7, "strategy": "plain"}


def run(data_dir, workdir, **options):
    with quickly():
        return mnist.run(mnist.Config(data_dir=data_dir, workdir=workdir, **OPTIONS | options), Console(quiet=True))


def start(data_dir, workdir):
    """The same run as a program of its own."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "train.mnist", *options, f"--workdir={workdir}", f"--data-dir={data_dir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def params(workdir):
    return interop.load(workdir / "params.safetensors")


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """A run that was never broken off."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(data_dir, workdir)


def check_against(whole, workdir):
    """Parameters, results and metrics are those of the run that was never broken off."""
    assert_equal(params(workdir), params(whole[0]))
    results = json.loads((workdir / "results.json").read_text())
    assert results["test_loss"] == whole[1]["test_loss"]
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    places = [(line["split"], line["step"]) for line in logged]
    assert places == [(line["split"], line["step"]) for line in expected]
    validation = [[line["loss"] for line in lines if line["split"] == "validation"] for lines in (logged, expected)]
    assert validation[0] == validation[1]


def kill_and_go_on(data_dir, workdir, seconds):
    """Starts the run, kills it after so many seconds, and starts it again until it is done; how often it was killed."""
    for kills, after in enumerate([*seconds, None]):
        process = start(data_dir, workdir)
        try:
            said, _ = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            continue
        assert process.returncode == 0, said
        return kills
    raise AssertionError("the last start has no limit")


@pytest.mark.slow
def test_killed_at_random_moments(whole, data_dir, tmp_path):
    """`python -m tests.train.kill` does it twenty times."""
    moments = random.Random(0)
    kill_and_go_on(data_dir, tmp_path / "run", [moments.uniform(4, 9) for _ in range(2)])
    check_against(whole, tmp_path / "run")


@pytest.mark.slow
def test_sigterm_saves_and_says_so(whole, data_dir, tmp_path):
    process = start(data_dir, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error: stopped after step ")]
    step = int(line.split()[4].rstrip(","))
    assert f"{step}" in os.listdir(tmp_path / "checkpoints")
    run(data_dir, tmp_path)
    check_against(whole, tmp_path)


def damage(path):
    """Changes the bytes in the middle of the largest file below a folder."""
    file = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    for k in range(len(content) // 2, min(len(content) // 2 + 40, len(content))):
        content[k] ^= 0x5A
    file.write_bytes(content)


def test_a_damaged_checkpoint(whole, data_dir, tmp_path, capsys):
    with broken_off(after=30):
        run(data_dir, tmp_path)
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    damage(tmp_path / "checkpoints" / str(steps[-1]) / "state")
    (tmp_path / "damaged" / str(steps[-1])).mkdir(parents=True)  # one was damaged there before
    run(data_dir, tmp_path)
    assert (tmp_path / "damaged" / f"{steps[-1]}-again" / "state").exists()
    assert f"the checkpoint of step {steps[-1]} is damaged" in capsys.readouterr().err
    check_against(whole, tmp_path)


DAMAGES = {"metrics/metrics": b'{"loss": 0.', "_CHECKPOINT_METADATA": b'{"item_h'}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_whose_small_files_are_damaged(name, whole, data_dir, tmp_path, capsys):
    with broken_off(after=30):
        run(data_dir, tmp_path, checkpoint_every=6)
    checkpoints = tmp_path / "checkpoints"
    newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    (checkpoints / str(newest) / name).write_bytes(DAMAGES[name])
    run(data_dir, tmp_path, checkpoint_every=6)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"the checkpoint of step {newest} is damaged (JSONDecodeError: ")
    assert line.endswith(f": it is now {tmp_path / 'damaged' / str(newest)}")
    assert (tmp_path / "damaged" / str(newest) / name).read_bytes() == DAMAGES[name]
    check_against(whole, tmp_path)


@pytest.mark.slow
def test_no_checkpoint_that_can_be_read(data_dir, tmp_path):
    with broken_off(after=30):
        run(data_dir, tmp_path)
    folders = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()]
    for folder in folders:
        damage(folder / "state")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read .*move that folder away to begin anew"):
        run(data_dir, tmp_path)
    for folder in folders:
        (folder / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read .*move that folder away to begin anew"):
        run(data_dir, tmp_path)
    assert all(folder.exists() for folder in folders)


@pytest.mark.slow
def test_killed_while_the_configuration_was_written(whole, data_dir, tmp_path):
    (tmp_path / ".config.json.x1y2").write_text('{"numb')
    run(data_dir, tmp_path)
    check_against(whole, tmp_path)


def test_resume_finds_the_run(whole, monkeypatch, data_dir, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--resume: there is no run mnist-gru-\.\.\. in runs/ that was broken off"):
        run(data_dir, None, resume=True)
    with broken_off(after=30):
        run(data_dir, None)
    (workdir,) = (tmp_path / "runs").iterdir()
    run(data_dir, None, resume=True)
    check_against(whole, workdir)


def test_another_configuration(data_dir, tmp_path):
    with broken_off(after=30):
        run(data_dir, tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"holds a run with --hidden-size=16, not 17: pass the same options to go on"):
        run(data_dir, tmp_path, hidden_size=17)
    assert (tmp_path / "config.json").read_text() == before


def test_a_finished_run_is_left_alone(whole, data_dir):
    before = {path: path.stat().st_mtime_ns for path in whole[0].iterdir() if path.name != "lock"}
    with pytest.raises(UserError, match="holds this run already, finished: pass another --workdir"):
        run(data_dir, whole[0])
    assert {path: path.stat().st_mtime_ns for path in whole[0].iterdir() if path.name != "lock"} == before


@pytest.mark.slow
def test_two_programs_do_not_share_a_workdir(data_dir, tmp_path):
    process = start(data_dir, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UserError, match="is in use by another program: pass another --workdir"):
        run(data_dir, tmp_path)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_full_disk(monkeypatch, data_dir, tmp_path):
    with broken_off(after=30):
        run(data_dir, tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", full)
        with pytest.raises(
            UserError, match=r"cannot be written in .*No space left on device.*the checkpoint of step 28 is"
        ):
            run(data_dir, tmp_path)
    assert np.isfinite(run(data_dir, tmp_path)["test_loss"])


def test_only_the_last_and_the_best_are_kept(whole):
    steps = {int(path.name) for path in (whole[0] / "checkpoints").iterdir() if path.name.isdecimal()}
    assert {56, 60} <= steps
    assert len(steps) <= 3
