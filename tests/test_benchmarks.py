"""The tables and pictures of docs/benchmarks.md show the reports kept in docs/figures."""

import copy

import PIL.Image
import pytest

from benchmarks import document, figures

PAGE = (document.DOCS / "benchmarks.md").read_text()
PICTURES = [name for name, kind in document.KINDS.items() if kind.picture]


def digest_in(path):
    with PIL.Image.open(path) as picture:
        return picture.text[figures.DIGEST]


@pytest.mark.parametrize("name", document.KINDS)
def test_the_table_is_of_the_report(name):
    assert document.insert(PAGE, name, document.KINDS[name].markdown(document.kept(name))) == PAGE


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_of_the_report(name):
    assert digest_in(document.DOCS / "images" / f"{name}.png") == figures.digest(document.kept(name))


@pytest.mark.parametrize("name", PICTURES)
def test_another_figure_is_noticed(name, tmp_path):
    report = copy.deepcopy(document.kept(name))
    times = report["results"][0]
    if name == "accelerators":
        times["figure"] *= 2
    elif name == "peers":
        times["milliseconds"]["flaxrnn"] *= 2
    else:
        times["milliseconds"] *= 2
    assert document.insert(PAGE, name, document.KINDS[name].markdown(report)) != PAGE
    document.KINDS[name].picture(report, tmp_path / "picture.png")
    assert digest_in(tmp_path / "picture.png") == figures.digest(report) != figures.digest(document.kept(name))


def test_a_page_without_a_place_is_an_error():
    with pytest.raises(ValueError, match=r"0 places for 'peers': put <!-- begin peers --> and"):
        document.insert("# Benchmarks\n", "peers", "")
