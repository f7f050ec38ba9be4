"""Two tiers of tests: `pytest` runs what a commit needs, `pytest --full` also the tests marked `slow`."""

import hypothesis
import pytest

# each example of another shape is compiled anew
hypothesis.settings.register_profile("default", max_examples=2, deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", max_examples=4, deadline=None, derandomize=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--full`."""
    parser.addoption("--full", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """More examples of each property in the full tier."""
    hypothesis.settings.load_profile("full" if config.option.full else "default")


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
