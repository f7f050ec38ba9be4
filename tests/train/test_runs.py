"""Finished runs whose files were edited or damaged: one line says which, and what to do."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from flaxrnn import interop
from train import charlm, devices, evaluate, memory, predict, sample, workdir
from train.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def adding(tmp_path_factory):
    """A short run of train.memory."""
    path = tmp_path_factory.mktemp("adding")
    memory.run(memory.Config(workdir=path, hidden_size=4, length=4, steps=2, strategy="plain"), QUIET)
    return path


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A short run of train.charlm, and its text."""
    path = tmp_path_factory.mktemp("language")
    text = path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    options = dict(hidden_size=4, steps=2, batch_size=2, unroll=8, sample=3, strategy="plain")
    charlm.run(charlm.Config(text=text, workdir=path / "run", **options), QUIET)
    return path / "run", text


@pytest.fixture
def copied(adding, tmp_path):
    return shutil.copytree(adding, tmp_path / "run")


def edit(path, **values):
    """Changes values in a run's config.json."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


EDITED = {
    "program": (
        {"program": "memroy"},
        "is of train.memroy, and there are only train.mnist, train.memory, train.charlm",
    ),
    "word for a number": ({"hidden_size": "four"}, "has hidden_size = 'four', which is not of int: bring its"),
    "truth for a number": ({"layers": True}, "has layers = True, which is not of int"),
    "fraction": ({"hidden_size": 4.5}, "has hidden_size = 4.5, which is not of int"),
    "list": ({"dropout": [0.1]}, r"has dropout = \[0.1\], which is not of float"),
    "nothing": ({"cell": None}, "has cell = None, which is not of str"),
    "number for a path": ({"workdir": 3}, r"has workdir = 3, which is not of .*Path"),
    "choice": ({"task": "subtracting"}, r"has task = 'subtracting', which is not of .*Literal\['adding', 'copy'\]"),
    "cell": ({"cell": "lstn"}, "does not hold what a run has: --cell=lstn: there is no such cell"),
    "range": ({"layers": -1}, "does not hold what a run has: --layers=-1: pass a positive number"),
    "numbers": ({"numbers": [1, 2]}, "is that of something else than a run"),
    "size": (
        {"hidden_size": 5},
        r"params.safetensors has float32\[4, 1\] as dense/kernel, but the network that .*"
        r"config.json describes has float32\[5, 1\]: bring back the files of one run",
    ),
    "length": ({"length": 5}, "has length = 5, and under numbers 4: bring back what the run had"),
    "layers": ({"layers": 2}, "params.safetensors has no array as layers/layer_1/"),
}


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_configuration(name, copied):
    values, message = EDITED[name]
    edit(copied, **values)
    with pytest.raises(UserError, match=message) as told:
        evaluate.run(evaluate.Options(copied), QUIET)
    assert "\n" not in str(told.value)
    assert "config.json" in str(told.value)


def test_parameters_of_another_type(copied, adding):
    whole = evaluate.run(evaluate.Options(copied), QUIET)
    assert whole == evaluate.run(evaluate.Options(adding), QUIET)
    arrays = interop.load(copied / "params.safetensors")
    interop.save(copied / "params.safetensors", {name: array.astype(np.float16) for name, array in arrays.items()})
    with pytest.raises(UserError, match=r"has float16\[1\] as dense/bias, but .* has float32\[1\]"):
        evaluate.run(evaluate.Options(copied), QUIET)


def test_files_that_may_not_be_read(copied, monkeypatch):
    def forbidden(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    with pytest.raises(UserError, match=r"config\.json cannot be read .*Permission denied"):
        evaluate.run(evaluate.Options(copied), QUIET)


@pytest.mark.parametrize("content", [b'{"test_loss', b"[1, 2]", b"\xff\xfe{", b""])
def test_damaged_results(content, copied):
    (copied / "results.json").write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json is damaged .*: remove it, and start the run again with"):
        workdir.read_results(copied)


def test_damaged_lines_of_metrics_are_left_out(copied):
    path = copied / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join([lines[0], b"\xff\xfe\x00\n", b"[3]\n", b'{"step": "x", "split": "train"}\n', *lines[1:]])
    )
    assert workdir.read_metrics(copied) == [json.loads(line) for line in lines]
    path.write_bytes(path.read_bytes()[:-9])
    assert len(workdir.read_metrics(copied)) == len(lines) - 1


def test_another_text_of_as_many_characters_is_not_scored(language):
    run, text = language
    content = text.read_text(encoding="utf-8")
    scored = evaluate.run(evaluate.Options(run), QUIET)
    text.write_text(content[::-1], encoding="utf-8")
    with pytest.raises(UserError, match=r"is of --text=text\.txt, \w+, but that is now text\.txt, \w+: bring back"):
        evaluate.run(evaluate.Options(run), QUIET)
    text.write_text(content, encoding="utf-8")
    assert evaluate.run(evaluate.Options(run), QUIET) == scored


CHARACTERS = {
    "not UTF-8": (lambda content: b"\xff" + content, r"cannot be read: characters\.txt: .*invalid start byte"),
    "one less": (
        lambda content: content[:-1],
        r"characters\.txt is not the one that the run has left: bring that back",
    ),
    "another": (lambda content: content[:-1] + b"!", "is not the one that the run has left"),
    "none": (lambda content: b"", "is not the one that the run has left"),
}


@pytest.mark.parametrize("name", CHARACTERS)
def test_damaged_characters(name, language, tmp_path):
    change, message = CHARACTERS[name]
    path = shutil.copytree(language[0], tmp_path / "run") / "characters.txt"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        sample.run(sample.Options(path.parent, sample=3), QUIET)


def outcome(score):
    """What a program gives, or that it told the user what is wrong, in one line."""
    try:
        return score()
    except UserError as error:
        return "told" if "\n" not in str(error) else str(error)


@pytest.mark.parametrize("name", ["config.json", "results.json", "params.safetensors"])
def test_random_bytes_are_told_or_do_nothing(name, copied):
    """Of a hundred damaged files each gives the numbers of the whole one, or a message."""
    rng, path = np.random.default_rng(0), copied / name
    whole, content = evaluate.run(evaluate.Options(copied), QUIET), path.read_bytes()
    told = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        found = outcome(lambda: evaluate.run(evaluate.Options(copied), QUIET))
        assert found in ("told", whole), bytes(damaged)
        told += found == "told"
    assert told > 20


def test_random_bytes_in_the_pictures_that_are_read(tmp_path):
    rng, digit = np.random.default_rng(0), np.zeros((40, 30), np.uint8)
    digit[5:30, 10:14] = 255
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a digit"
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        Image.fromarray(digit).save(tmp_path / "whole", kind, **({} if kind == "GIF" else {"exif": exif}))
        content = (tmp_path / "whole").read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            damaged[rng.integers(len(damaged))] = rng.integers(256)
            (tmp_path / "damaged").write_bytes(damaged)
            found = outcome(lambda: predict.load_image(tmp_path / "damaged"))
            assert isinstance(found, str) or (found.shape == (28, 28) and np.isfinite(found).all())


def test_the_first_process_alone_writes(language, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(devices, "is_first_process", lambda: False)
    config = charlm.Config(
        text=language[1], workdir=tmp_path / "run", hidden_size=4, steps=2, batch_size=2, unroll=8, sample=3
    )
    assert charlm.run(config, QUIET)["steps"] == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints"}  # orbax has its own first process
