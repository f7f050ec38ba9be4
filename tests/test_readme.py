"""What the README shows works as it stands there."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_run(capsys):
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, namespace)
    assert capsys.readouterr().out.strip() == re.search(r"print\(.*\)  # (.*)", README).group(1)
    assert namespace["logits"].shape == (32, 10)
    assert namespace["Leaky"](hidden_size=4).output_size == 4


def test_pictures_and_files_are_there():
    for path in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (pathlib.Path(__file__).parents[1] / path).exists(), path


def test_the_documentation_is_built_with_all_that_its_examples_need():
    (extras,) = re.findall(r"pip install -e '\.\[(.*)\]' && sphinx-build", README)
    assert {"docs", "interop"} <= set(extras.split(","))  # docs/interop.md writes a portable file, by flatbuffers
