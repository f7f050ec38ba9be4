"""`python -m train.compare`: several networks and seeds in one table and one picture."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from tests.train.conftest import broken_off, quickly
from train import compare
from train.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SMALL = ["--steps=12", "--hidden-size=8", "--strategy=plain", "--checkpoint-every=6"]


def run(workdir, arguments, **options):
    with quickly():
        return compare.run(compare.Options(workdir=workdir, **options), arguments, Console(quiet=True))


@pytest.mark.slow
def test_the_table_and_the_picture_are_those_of_the_runs(data_dir, tmp_path):
    arguments = [*SMALL, f"--data-dir={data_dir}"]
    options = {"cells": "lstm+peephole,gru+no-reset-after+hidden-size=4", "seeds": 3}
    with broken_off(after=7):
        run(tmp_path, arguments, **options)
    runs = run(tmp_path, arguments, **options)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| network | test accuracy, median | lowest to highest |"
    for line, (name, each) in zip(lines[2:], runs.items(), strict=True):
        left = [tmp_path / name / f"seed-{seed}" for seed in range(3)]
        found = [json.loads((path / "results.json").read_text()) for path in left]
        assert found == [one.results for one in each]
        accuracies = sorted(one["test_accuracy"] for one in found)
        assert len(set(accuracies)) == 3
        assert line == f"| `{name}` | {accuracies[1]:.2%} | {accuracies[0]:.2%} to {accuracies[2]:.2%} |"
        configs = [json.loads((path / "config.json").read_text()) for path in left]
        assert [config["seed"] for config in configs] == [0, 1, 2]
        assert {config["steps"] for config in configs} == {12}
        assert {config["cell"] for config in configs} == {name.split("+")[0]}
        assert {config["hidden_size"] for config in configs} == {4 if "size" in name else 8}
        assert {(config["peephole"], config["reset_after"]) for config in configs} == {
            (True if "peephole" in name else None, False if "reset" in name else None)
        }
    picture = imread(tmp_path / "comparison.png")
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture)) > 50
    with pytest.raises(UserError, match="holds this run already, finished"):
        run(tmp_path, arguments, **options)


def test_other_programs(tmp_path):
    arguments = ["--length=4", "--steps=20", "--hidden-size=4", "--strategy=plain", "--checkpoint-every=20"]
    runs = run(tmp_path, arguments, cells="elman,gru", seeds=1, program="memory")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| network | test loss")
    for name, line in zip(["elman", "gru"], lines[2:], strict=True):
        assert f"| `{name}` | {runs[name][0].results['test_loss']:.4g} |" in line


WRONG = {
    "no cell": ({"cells": "elman,,gru"}, [], "--cells=elman,,gru: pass cells with commas between them"),
    "no option": ({"cells": "gru+"}, [], r"--cells=gru\+: pass cells with commas between them"),
    "twice": ({"cells": "gru,gru"}, [], "gru and gru are the same network"),
    "another cell": ({"cells": "lstm,gru"}, ["--cell=gru"], "--cell=gru does not go with a comparison"),
    "mesh": ({"cells": "gru,lstm+mesh=data:3"}, [], "--mesh=data:3 has 3 devices, but there are 1"),
    "unknown cell": ({"cells": "gru,qrnn"}, [], "--cell=qrnn: there is no such cell: pass one of"),
    "not its option": ({"cells": "gru+peephole"}, [], "--peephole does not go with --cell=gru"),
    "no seeds": ({"seeds": 0}, [], "--seeds=0: pass a positive number"),
    "seed": ({}, ["--seed=3"], "--seed does not go with a comparison"),
    "workdir": ({"cells": "gru+workdir=elsewhere"}, [], "--workdir does not go with a comparison"),
    "number": ({}, ["--hidden-size=0"], "--hidden-size=0: pass a positive number"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_compared_is_said_before_anything_is_trained(tmp_path, wrong):
    options, arguments, message = WRONG[wrong]
    with pytest.raises(UserError, match=message):
        run(tmp_path / "runs", arguments, **options)
    assert not (tmp_path / "runs").exists()
