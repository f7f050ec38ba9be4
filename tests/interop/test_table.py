"""The table in the documentation is what the converters do."""

from tests.interop.table import PAGE, page


def test_the_table_is_true():
    assert PAGE.read_text() == page(), "run python -m tests.interop.table"
