"""The notebooks: script and notebook say the same, outputs are there, the set-up cell leaves the JAX that is installed.

That they run from top to bottom is tested by `NOTEBOOK_SMALL=1 pytest --nbmake notebooks/*.ipynb`.
"""

import pathlib
import subprocess
import sys

import jax
import jupytext
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
REPOSITORY = "https://github.com/flaxrnn/flaxrnn"
NAMES = [
    "from_other_frameworks",
    "quickstart",
    "sequences",
    "tpu_data_parallel",
    "understanding_lstm",
    "your_own_cell",
]


def cells(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_script_is_the_notebook(name):
    script = jupytext.read(FOLDER / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in cells(name)] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ], f"run: jupytext --sync notebooks/{name}.py, and execute it"


@pytest.mark.parametrize("name", NAMES)
def test_all_cells_have_run_in_order_without_warnings(name):
    code = [cell for cell in cells(name) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")
    assert any(output.output_type == "display_data" for output in outputs)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 700_000


@pytest.mark.parametrize("name", NAMES)
def test_the_frame_of_a_notebook(name):
    first, _, setup, *_, last = cells(name)
    badge = f"https://colab.research.google.com/{REPOSITORY.split('//')[1].replace('.com', '')}"
    assert f"{badge}/blob/main/notebooks/{name}.ipynb" in first.source
    assert setup.source == cells("quickstart")[2].source
    assert any("print(jax.devices())" in cell.source for cell in cells(name))
    assert "## Exercises" in last.source


def test_on_colab_the_installed_jax_stays(monkeypatch, tmp_path):
    called = []

    def run(command, check):
        assert check
        called.append([str(part) for part in command])
        if command[0] == "git":
            pathlib.Path(command[-1]).mkdir()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(cells("quickstart")[2].source, {})
    (clone, install) = called
    assert clone[:2] == ["git", "clone"]
    assert REPOSITORY in clone
    root = tmp_path / "flaxrnn-main"
    assert sys.path[0] == str(root)
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert install[-1] == f"{root}[train]"
    (constraints,) = [part.removeprefix("--constraint=") for part in install if part.startswith("--constraint=")]
    pinned = pathlib.Path(constraints).read_text().split()
    assert pinned == [f"jax=={jax.__version__}", f"jaxlib=={jax.lib.__version__}"]


def test_in_a_checkout_nothing_is_installed(monkeypatch):
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something is installed"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(cells("quickstart")[2].source, {})
    assert pathlib.Path(sys.path[0]) == FOLDER.parent
