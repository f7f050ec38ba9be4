"""Finished runs, scored and used."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image, PngImagePlugin
from rich.console import Console

from tests.tiers import tiers
from tests.train.conftest import LOAD_ONCE
from tests.train.test_mnist import run
from train import evaluate, predict
from train.errors import UserError

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("rows")
    return workdir, run(data_dir, workdir, draw=True, steps=200)


@pytest.fixture(scope="module", params=tiers(["rows", "pixels"], {"rows"}))
def finished(request, data_dir, tmp_path_factory):
    if request.param == "rows":
        return request.getfixturevalue("trained")
    workdir = tmp_path_factory.mktemp("pixels")
    return workdir, run(
        data_dir, workdir, draw=True, read="pixels", hidden_size=4, steps=3, bidirectional=True, cell="lstm"
    )


@pytest.fixture(scope="module")
def rows(trained):
    return trained[0]


def test_evaluate_gives_the_result_of_the_run(finished, data_dir):
    workdir, results = finished
    scored = evaluate.run(evaluate.Options(workdir, data_dir=data_dir), QUIET)
    assert scored["accuracy"] == results["test_accuracy"]
    assert scored["loss"] == pytest.approx(results["test_loss"], abs=1e-6)
    on_validation = evaluate.run(evaluate.Options(workdir, split="validation"), QUIET)
    assert on_validation["loss"] != scored["loss"]


def test_evaluate_says_what_is_wrong(finished, tmp_path):
    with pytest.raises(UserError, match=r"holds no run: pass a workdir that has a config.json"):
        evaluate.run(evaluate.Options(tmp_path), QUIET)
    (tmp_path / "config.json").write_text((finished[0] / "config.json").read_text())
    with pytest.raises(UserError, match="was broken off: finish it first, by the same command with --workdir="):
        evaluate.run(evaluate.Options(tmp_path), QUIET)
    (tmp_path / "results.json").write_text("{}")
    for config, message in {
        '{"numbers": {}}': "holds no single run",
        '{"numbers": {}, "program": "memory"}': "holds a run of train.memory, which has no --batch-size",
        "{}": "is that of something else than a run",
        '{"numb': "is damaged",
    }.items():
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(UserError, match=message):
            evaluate.run(evaluate.Options(tmp_path), QUIET)
    (tmp_path / "config.json").write_text((finished[0] / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be read: there is no file"):
        evaluate.run(evaluate.Options(tmp_path), QUIET)


def test_a_picture_of_a_digit_becomes_one_of_mnist(data_dir, tmp_path):
    """Enlarged, moved, in colours and with the paper dark, it comes back as it was."""
    images, away = LOAD_ONCE(data_dir).test.images[:40], []
    for number, image in enumerate(images):
        large = np.asarray(Image.fromarray(image).resize((140, 140), Image.Resampling.NEAREST), int)
        canvas = np.zeros((300, 200), int)
        canvas[30:170, 20:160] = large
        ink, paper = ((200, 30, 40), (250, 250, 240)) if number % 2 else ((230, 230, 90), (10, 20, 60))
        weight = canvas[..., None] / 255
        Image.fromarray((weight * ink + (1 - weight) * paper).astype(np.uint8)).save(tmp_path / "digit.png")
        found = predict.load_image(tmp_path / "digit.png")
        assert found.shape == (28, 28)
        assert found.max() == pytest.approx(1.0, abs=0.2)
        away.append(np.abs(found - image / 255).mean())
    assert np.mean(away) < 0.02


def test_predict(rows, data_dir, tmp_path, capsys):
    test = LOAD_ONCE(data_dir).test
    paths = []
    for k in range(20):
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray(255 - test.images[k]).resize((56, 56)).save(paths[-1])
    found = predict.run(predict.Options(rows, tuple(paths), tmp_path / "out"), Console(width=200))
    right = sum(digit == label for (digit, _), label in zip(found, test.labels, strict=False))
    assert right >= 12
    assert all(0 < confidence <= 1 for _, confidence in found)
    assert f"{found[0][1]:.1%}" in capsys.readouterr().out
    assert len(np.unique(imread(tmp_path / "out" / "0.reading.png"))) > 50


def test_predict_with_another_network(finished, data_dir, tmp_path):
    Image.fromarray(LOAD_ONCE(data_dir).test.images[0]).save(tmp_path / "seven.png")
    predict.run(predict.Options(finished[0], (tmp_path / "seven.png",)), QUIET)
    assert (tmp_path / "seven.reading.png").exists()


def test_pictures_that_are_none(rows, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (30, 30), 128).save(tmp_path / "empty.png")
    for name, message in {"text.png": "cannot be read as a picture", "empty.png": "has one colour only"}.items():
        with pytest.raises(UserError, match=message):
            predict.run(predict.Options(rows, (tmp_path / name,)), QUIET)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        predict.run(predict.Options(rows, (tmp_path / "none.png",)), QUIET)


def test_a_photograph_that_lies_on_its_side(data_dir, tmp_path):
    digit = Image.fromarray(255 - LOAD_ONCE(data_dir).test.images[0]).resize((112, 112))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as cameras note it
    digit.rotate(90).save(tmp_path / "turned.png", exif=exif)
    digit.save(tmp_path / "upright.png")
    turned, upright = (predict.load_image(tmp_path / f"{name}.png") for name in ("turned", "upright"))
    np.testing.assert_allclose(turned, upright, atol=0.05)


@pytest.mark.parametrize("ink", [0, 255])
def test_transparent_paper(ink, data_dir, tmp_path):
    digit = LOAD_ONCE(data_dir).test.images[0]
    layers = [np.full_like(digit, ink)] * 3 + [digit]
    Image.fromarray(np.stack(layers, axis=-1)).save(tmp_path / "digit.png")
    assert np.abs(predict.load_image(tmp_path / "digit.png") - digit / 255).mean() < 0.02


def test_pictures_that_cannot_be_drawn_beside(rows, data_dir, tmp_path):
    digit = Image.fromarray(LOAD_ONCE(data_dir).test.images[0])
    paths = [tmp_path / "d.png", tmp_path / "d.bmp"]
    for path in paths:
        digit.save(path)
    with pytest.raises(UserError, match="there is no picture to read: pass one or more"):
        predict.run(predict.Options(rows, ()), QUIET)
    with pytest.raises(UserError, match=r"would both be drawn in .*d\.reading\.png: pass them one by one"):
        predict.run(predict.Options(rows, tuple(paths)), QUIET)
    with pytest.raises(UserError, match=r"cannot be made .*: pass another --out"):
        predict.run(predict.Options(rows, (paths[0],), paths[1]), QUIET)


def test_what_the_run_left(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["read"] in ("rows", "pixels")
    assert len(np.unique(imread(finished[0] / "gates.png"))) > 50


def test_a_picture_is_not_drawn_over(tmp_path):
    paths = tmp_path / "x.png", tmp_path / "x.reading.png"
    with pytest.raises(UserError, match=r"would overwrite the picture .*x\.reading\.png: pass another --out"):
        predict.drawings(predict.Options(tmp_path, paths))


def test_pictures_that_are_too_large(tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge\.png has 13000 x 13000 pixels: pass a picture of at most"):
        predict.load_image(tmp_path / "huge.png")
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 3_000_000, zip=True)
    Image.new("L", (30, 30)).save(tmp_path / "text.png", pnginfo=text)
    with pytest.raises(UserError, match=r"text\.png cannot be read as a picture"):
        predict.load_image(tmp_path / "text.png")
