"""The tables of errors are those that the recorded steps give now."""

from __future__ import annotations

from tests.reference.table import README, full, readme, rows


def test_the_tables_show_the_errors_of_today() -> None:
    """One test for both, since every step is estimated for it. If not: python -m tests.reference.table --readme."""
    found = rows()
    assert README.read_text("utf-8") == readme(found)
    assert len(full(found).splitlines()) == len(found) + 2
