"""Sections as text: columns that give way are wrapped at words, and no line is wider than its page."""

from __future__ import annotations

import pytest

from memcalc.render.page import Page
from memcalc.render.sections import lines, section

ROWS = [
    ("implementation", "hf → hf-liger", "4.91 GiB", "free"),
    ("expandable segments", "off → on", "3.39 GiB", "free"),
    ("optimizer", "adamw → adamw (implementation=fused)", "1.84 GiB", "changes numerics"),
]
CHANGES = section("changes", ("", "", ">saves", ""), ROWS)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_its_page(width: int) -> None:
    assert max(map(len, lines(CHANGES, Page(width)))) <= width


def test_what_is_narrowed_is_wrapped_and_the_rest_stays_aligned() -> None:
    told = lines(CHANGES, Page(60))
    assert told[2:] == [
        "  implementation       hf → hf-liger  4.91 GiB  free",
        "  expandable segments  off → on       3.39 GiB  free",
        "  optimizer            adamw → adamw  1.84 GiB  changes",
        "                       (implementati            numerics",
        "                       on=fused)",
    ]
