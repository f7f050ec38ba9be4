"""Kills a run at twenty random moments and compares it with one that was left alone: `python -m tests.train.kill`."""

import pathlib
import random
import sys
import tempfile

from tests.train import test_resume


def main(times: int = 20) -> None:
    """The program."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        data_dir, workdir = root / "data", root / "run"
        whole = root / "whole", test_resume.run(data_dir, root / "whole")
        moments = random.Random(1)
        kills = test_resume.kill_and_go_on(data_dir, workdir, [moments.uniform(3, 9) for _ in range(times)])
        test_resume.check_against(whole, workdir)
        print(f"killed {kills} times: the same parameters, bit for bit")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
