"""Memory that frameworks' own READMEs and examples state, beside what is estimated for the same settings.

stated.jsonl has a row for each figure: the keys of its config that are read, the GPUs, the bytes, and what was counted
(`metric`: allocated, reserved or unknown). `longest`: batches are as long as their longest sample, so the estimate is of
the longest that there may be; `oom`: it did not fit a GPU of so many bytes; `aside`: why the figure is of another run than
the one that the file asks for now, or of one that the tape does not follow.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import reading

if TYPE_CHECKING:
    from memcalc.report import Memory

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "stated.jsonl").read_text("utf-8").splitlines()
]
FIGURES = [row for row in ROWS if "stated" in row]
EXACT = [row for row in FIGURES if not row.keys() & {"longest", "aside"}]
SHORTER = [row for row in FIGURES if "longest" in row and "aside" not in row]


@cache
def memory(number: int) -> Memory:
    row = ROWS[number]
    found = reading(
        json.dumps(row["config"]), row["format"], name="x.json", **({"gpus": row["gpus"]} if "gpus" in row else {})
    )
    run = {
        "gpus": row.get("gpus", 1),
        "gpu": "h100-80gb",
        **found.run,
    }  # any real one: its streams have pools of their own
    return estimate_run(parse_run(run, found.source, found.place)).memory


def estimated(row: dict[str, Any]) -> int:
    found = memory(ROWS.index(row))
    return found.peak_allocated if row["metric"] == "allocated" else found.reserved


def error(row: dict[str, Any]) -> float:
    return float(estimated(row) / row["stated"] - 1)


def test_every_stated_run_has_an_estimate() -> None:
    """Prints stated | estimated | error (pytest -s)."""
    for row in FIGURES:
        stated, marks = row["stated"] / 2**30, " ".join(sorted(row.keys() & {"longest", "aside"}))
        print(f"{row['id']:<14} {stated:6.1f} | {estimated(row) / 2**30:6.1f} GiB | {error(row):+6.0%} {marks}")  # noqa: T201
    assert all(estimated(row) > 0 for row in FIGURES)


def test_what_is_complete_is_near() -> None:
    """Figures of whole batches on eager code; most say "about", and do not say which counter they are from."""
    errors = sorted(abs(error(row)) for row in EXACT)
    assert len(errors) > 10
    assert errors[len(errors) // 2] < 0.1
    assert errors[-1] < 0.4


def test_the_longest_batches_take_no_less_than_was_seen() -> None:
    errors = sorted(error(row) for row in SHORTER)
    assert errors[len(errors) // 4] > -0.2
    assert errors[0] > -0.35


@pytest.mark.parametrize("row", [row for row in ROWS if "oom" in row], ids=lambda row: str(row["id"]))
def test_what_did_not_fit_does_not_fit(row: dict[str, Any]) -> None:
    assert memory(ROWS.index(row)).total > 0.95 * row["oom"]
