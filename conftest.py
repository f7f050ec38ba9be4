"""Two tiers of tests: `pytest` runs what a commit needs, `pytest --full` also the tests marked `slow`."""

import os
import pathlib
import time

import hypothesis
import jax
import pytest

# each example of another shape is compiled anew
hypothesis.settings.register_profile("default", max_examples=2, deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", max_examples=4, deadline=None, derandomize=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--full`."""
    parser.addoption("--full", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """More examples of each property in the full tier; compiled programs are kept for the next run."""
    hypothesis.settings.load_profile("full" if config.option.full else "default")
    if hasattr(config, "cache"):  # not with -p no:cacheprovider
        folder = config.cache.mkdir("compiled")
        if not hasattr(config, "workerinput"):
            remove_old_entries(folder)
        use_compilation_cache(str(folder))


def use_compilation_cache(folder: str) -> None:
    """In this process and in those that tests start."""
    for option, value in {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(option, value)
        os.environ[option.upper()] = str(value)


def remove_old_entries(folder: pathlib.Path) -> None:
    """Those of a week ago and more: most are of programs that have changed since."""
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - 7 * 24 * 3600:
            path.unlink(missing_ok=True)


def pytest_report_header(config: pytest.Config) -> str:
    """Which tier runs; pytest-xdist does not report deselected tests."""
    return "tier: full" if config.option.full else "tier: default; --full also runs the tests marked slow"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects slow tests, except with `--full` or `-m`, and those named on the command line."""
    if config.option.full or config.option.markexpr:
        return
    named = set()
    for argument in config.args:
        path, _, test = argument.partition("::")
        named.add(((config.invocation_params.dir / path).resolve(), test.partition("[")[0]))
    chosen, deselected = [], []
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        is_named = (item.path, getattr(item, "originalname", item.name)) in named
        (deselected if slow and not is_named else chosen).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = chosen
