"""Narrow terminals: no line is wider than its page, and no figure is cut."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.render.listing import render_card, render_rows
from memcalc.render.page import Page
from memcalc.render.table import render

ROWS = [
    {"gpu": "h100-80gb", "usable": "79.10 GiB", "GB/s": "3350", "TFLOPS bf16": "989.4", "USD/h": "1.99-5"},
    {"gpu": "gh200-144gb", "usable": "142.50 GiB", "GB/s": "4900", "TFLOPS bf16": "989.4", "USD/h": ""},
]
RUNS: list[dict[str, Any]] = [
    {"model": "gpt2"},
    {"model": "llama-3-8b", "gpu": "8xh100", "sharding": "fsdp"},
    {"model": "sd3", "lora": 8, "gpu": "3060"},
]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_an_estimate_fits(width: int) -> None:
    for run in RUNS:
        told = render(estimate(run), Page(width)).splitlines()
        assert max(map(len, told)) <= width
        assert not any(line.strip().endswith("%") and len(line.split()) == 2 for line in told)  # a share alone: wrapped


def test_columns_that_do_not_fit_are_left_out_whole() -> None:
    told = render_rows("gpus", ROWS, ROWS, "table", Page(40)).splitlines()
    assert [line.split() for line in told] == [
        ["gpu", "usable", "GB/s"], ["h100-80gb", "79.10", "GiB", "3350"], ["gh200-144gb", "142.50", "GiB", "4900"],
    ]  # fmt: skip
    assert "USD/h" in render_rows("gpus", ROWS, ROWS, "table", Page(60))


def test_the_names_of_a_card_leave_room_for_what_they_name() -> None:
    card = {"states of a 4096x4096 bf16 matrix": "name exp_avg, dtype bf16, shape 4096x4096"}
    told = render_card(card, "table", Page(40)).splitlines()
    assert told[0].startswith("states of a ")
    assert max(map(len, told)) <= 40
    assert len(told) <= 4
