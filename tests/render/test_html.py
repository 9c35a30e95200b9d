"""The page in HTML: well formed, self-contained, the same numbers as the table, nothing of the input as markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from memcalc import estimate
from memcalc.render import Page, render
from memcalc.render.html import COLOURS, WIDTH
from memcalc.render.summary import rows

VOID = {"meta", "rect", "line"}
RUNS: list[dict[str, Any]] = [
    {"model": "llama-3-8b", "precision": "bf16", "gpu": "h100-80gb"},
    {"model": "llama-2-7b", "gpu": "rtx-4090"},
    {"model": "llama-3-70b", "gpu": "h100-80gb", "gpus": 64, "sharding": "fsdp"},
    {"model": "7b"},
]


class Nesting(HTMLParser):
    """Opened and closed elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        assert all(value is not None for name, value in attrs if name != "open")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run["model"]))
def test_the_page_is_whole_and_says_what_the_table_says(run: dict[str, str]) -> None:
    report, page = estimate(run), Page()
    text = render(report, "html", page)
    parser = Nesting()
    parser.feed(text)
    assert parser.open == []
    said = " ".join(parser.text)
    assert all(page.size(row.bytes) in said and row.title in said for row in rows(report))
    assert page.size(report.memory.total) in said
    assert "http" not in text  # nothing is loaded from anywhere


def test_the_bar_is_as_wide_as_the_parts_are_large() -> None:
    report = estimate(RUNS[0])
    widths = [
        float(width)
        for width in re.findall(r'y="0" width="([\d.]+)" height="\d+" fill=', render(report, "html", Page()))
    ]
    share = min(report.memory.total / (report.gpu.usable or 1), 1)
    assert sum(widths) == pytest.approx(WIDTH * share, abs=0.05 * len(widths) + 0.05)
    assert len(widths) == len(rows(report))


def test_every_part_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    report = estimate(RUNS[2])
    assert {row.title for row in rows(report)} <= COLOURS.keys()


def test_names_are_text() -> None:
    report = estimate({"model": {"model_type": "llama", "name": "<script>alert(1)</script>", "hidden_size": 64,
                                 "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
                                 "vocab_size": 100}})  # fmt: skip
    assert "<script" not in render(report, "html", Page())
