"""The README's table of errors is the one that the recorded steps give now."""

from __future__ import annotations

from tests.reference.table import README, full, readme, rows


def test_the_readme_shows_the_errors_of_today() -> None:
    """If not: python -m tests.reference.table --readme."""
    assert README.read_text("utf-8") == readme(rows())


def test_the_full_table_has_a_line_for_every_step() -> None:
    found = rows()
    assert len(full(found).splitlines()) == len(found) + 2
