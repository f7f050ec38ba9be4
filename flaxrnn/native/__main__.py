"""Builds the kernels of the library's cells and says how it went: `python -m flaxrnn.native`."""

import sys
import time

from flaxrnn import cells
from flaxrnn.native import build
from flaxrnn.native.generate import source


def main() -> int:
    """Builds what is not built yet; the status is 1 if that fails."""
    if reason := build.why_not():
        print(f"no native kernels: {reason}")
        return 1
    print(f"compiler: {build.compiler()}")
    for cell in (cells.LSTM(8), cells.GRU(8), cells.GRU(8, reset_after=False), cells.MGU(8), cells.Elman(8)):
        start = time.perf_counter()
        try:
            name = build.load(source(cell))
        except build.BuildError as reason:
            print(f"no native kernels: {reason}")
            return 1
        print(f"{cell!r}: {build.folder() / name}.so, {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
