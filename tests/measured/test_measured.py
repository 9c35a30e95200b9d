"""memcalc beside what others measured on real GPUs: every row of rows.yaml, its error printed (pytest -rP)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.measured.measured import Measured, compared, groups, middle, rows
from tests.measured.table import README, full, readme, summaries

CASES = [(group["name"], number) for group in groups() for number in range(len(group["rows"]))]
MEDIAN, UNDER = 0.05, 0.1


@pytest.mark.parametrize(("group", "number"), CASES)
def test_none_is_far_under(group: str, number: int) -> None:
    found = compared(group)[number]
    row = found.row
    print(f"{group}: {row.setting}: {found.error:+.1%} {row.unexplained}")  # noqa: T201 - pytest -rP shows it
    assert found.estimate > 0
    assert found.error > -UNDER or row.unexplained
    assert found.error < UNDER


@pytest.mark.parametrize("group", groups(), ids=lambda group: group["name"])
def test_the_median(group: dict[str, Any]) -> None:
    found = middle([each.error for each in compared(group["name"])])
    assert (found > MEDIAN) == ("unexplained" in group)


def test_every_row_says_what_it_is_of() -> None:
    for group in groups():
        assert group["source"]
        assert all(isinstance(row, Measured) and row.bytes > 0 for row in rows(group))


def test_the_table_has_a_line_for_every_row() -> None:
    assert len(full().splitlines()) == len(CASES) + 2
    assert len(summaries()) > len(groups())


def test_the_readme_shows_the_errors_of_today() -> None:
    """If not: python -m tests.measured.table --readme."""
    assert README.read_text("utf-8") == readme()
