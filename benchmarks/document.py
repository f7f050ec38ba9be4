"""Puts measured figures into the documentation: `python -m benchmarks.document --peers runs/benchmarks/peers.json`.

Reports are kept in docs/figures. The tables of docs/benchmarks.md, between a pair of comments with the report's name,
and the pictures in docs/images are made from them; without options, they are made anew.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import rich
import tyro

from benchmarks import accelerators_report, figures, lengths_report, peers_report

DOCS = Path(__file__).parents[1] / "docs"


class Kind(NamedTuple):
    """What is made of a report.

    Attributes:
      markdown: gives the text and tables for the page.
      picture: draws the report to a file; None if it has no picture.
    """

    markdown: Callable[[dict[str, Any]], str]
    picture: Callable[[dict[str, Any], Path], None] | None


KINDS = {
    "peers": Kind(peers_report.markdown, peers_report.picture),
    "peers-huge-pages": Kind(peers_report.markdown, None),
    "lengths": Kind(lengths_report.markdown, lengths_report.picture),
    "accelerators": Kind(accelerators_report.markdown, accelerators_report.picture),
}


@dataclasses.dataclass
class Options:
    """Reports to take into the documentation; those left out stay as they are.

    Attributes:
      peers: peers.json of `benchmarks.peers`.
      peers_huge_pages: peers.json of `benchmarks.peers`, run under GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
      lengths: lengths.json of `benchmarks.lengths`.
      accelerators: accelerators.json of `benchmarks.accelerators`.
    """

    peers: Path | None = None
    peers_huge_pages: Path | None = None
    lengths: Path | None = None
    accelerators: Path | None = None


def main(options: Options) -> None:
    """Copies the reports, and makes tables and pictures of all that are kept."""
    given = {name.replace("_", "-"): path for name, path in vars(options).items()}
    page = (DOCS / "benchmarks.md").read_text()
    for name, kind in KINDS.items():
        if path := given[name]:
            (DOCS / "figures" / f"{name}.json").write_text(figures.dumps(json.loads(path.read_text())))
        report = kept(name)
        page = insert(page, name, kind.markdown(report))
        if kind.picture:
            kind.picture(report, DOCS / "images" / f"{name}.png")
    (DOCS / "benchmarks.md").write_text(page)
    rich.print(f"written: {DOCS}/benchmarks.md and the pictures in {DOCS}/images")


def kept(name: str) -> dict[str, Any]:
    """The report of that name in docs/figures."""
    return json.loads((DOCS / "figures" / f"{name}.json").read_text())


def insert(page: str, name: str, text: str) -> str:
    """The page with `text` between the comments that mark the place of the report `name`.

    Raises:
      ValueError: if the page has no such place, or several.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    page, places = re.subn(f"({begin}).*?({end})", lambda match: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)
    if places != 1:
        raise ValueError(f"the page has {places} places for {name!r}: put {begin.strip()} and {end} there, once")
    return page


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.document"))
