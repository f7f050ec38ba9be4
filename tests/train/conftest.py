"""MNIST, prepared once for all tests of the programs."""

import contextlib
import functools
import os
import unittest.mock

import pytest

from train import loop, mnist

LOAD_ONCE = functools.cache(mnist.mnist.load)


def quickly(draw=False):
    """A context in which MNIST is read once for all runs of this process, and pictures are left out, or not."""
    parts = {"draw": mnist.draw if draw else unittest.mock.Mock(), "mnist": unittest.mock.Mock(wraps=mnist.mnist)}
    parts["mnist"].load = LOAD_ONCE
    return unittest.mock.patch.multiple(mnist, **parts)


@contextlib.contextmanager
def broken_off(after):
    """A context in which a run ends after so many steps, as if it were killed."""
    real = loop.Window.add

    def add(self, number, report):
        if number > after:
            raise KeyboardInterrupt
        real(self, number, report)

    with unittest.mock.patch.object(loop.Window, "add", add), pytest.raises(KeyboardInterrupt):
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """One folder for all processes of pytest-xdist: the first test that needs MNIST prepares it there."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"
