"""Limits: which value of a report each key holds, and by how much it is exceeded."""

from __future__ import annotations

import pytest

from memcalc import RunInvalid, estimate
from memcalc.checking.limits import NOTHING, limits
from memcalc.run import Budget

GIB = 2**30
REPORT = estimate({"model": "gpt2", "precision": "fp32", "gpu": "h100-80gb", "gpus": 2})
MEMORY = REPORT.memory


def where(path: str) -> str:
    return f"file:{path}"


CASES: list[tuple[Budget, float, float]] = [  # budget of one limit, what it is held against, by how much it is exceeded
    (Budget(max_total=0), MEMORY.total, MEMORY.total),
    (Budget(max_total=MEMORY.total), MEMORY.total, 0),
    (Budget(max_total=MEMORY.total - 1), MEMORY.total, 1),
    (Budget(max_peak="1GiB"), MEMORY.peak_allocated, MEMORY.peak_allocated - GIB),
    (Budget(components={"weights": "100MB"}), MEMORY.components.weights, MEMORY.components.weights - 100_000_000),
    (Budget(components={"activations": "1TiB"}), MEMORY.components.activations, 0),
    (Budget(min_headroom="1TiB"), REPORT.verdict.headroom or 0, 1024 * GIB - (REPORT.verdict.headroom or 0)),
    (Budget(min_headroom=1), REPORT.verdict.headroom or 0, 0),
    (Budget(max_gpus=1), 2, 1),
    (Budget(max_gpus=2), 2, 0),
    (Budget(max_usd_per_hour=5.0), 6.0, 1.0),
]


@pytest.mark.parametrize(("budget", "actual", "excess"), CASES)
def test_a_limit_holds_what_its_key_says(budget: Budget, actual: float, excess: float) -> None:
    held = limits(budget, where).held(REPORT, price=3.0)[0]
    assert (held.actual, held.excess, held.passed) == (actual, excess, excess == 0)
    assert held.where == f"file:{held.path}"


def test_that_it_fits_is_a_limit_of_its_own() -> None:
    small = estimate({"model": "llama-2-7b", "gpu": "rtx-4090"})
    held = NOTHING.held(small, None)
    assert [(limit.path, limit.passed) for limit in held] == [("gpu", False)]
    assert held[0].excess == -(small.verdict.headroom or 0)
    assert NOTHING.held(estimate({"model": "gpt2"}), None) == ()


def test_a_price_that_is_not_known_does_not_pass() -> None:
    held = limits(Budget(max_usd_per_hour=5.0), where).held(REPORT, price=None)[0]
    assert held.actual is None
    assert not held.passed


def test_the_later_budget_wins_limit_by_limit() -> None:
    both = limits(Budget(max_total="1GiB", max_gpus=4), where).over(limits(Budget(max_total="2GiB"), where))
    assert {path: wanted.value for path, wanted in both.by_path.items()} == {"max_total": 2 * GIB, "max_gpus": 4}


def test_every_fault_of_a_budget_is_told_at_its_place() -> None:
    with pytest.raises(RunInvalid) as caught:
        limits(Budget(max_total="76 GiBs", components={"activation": 1}), where)
    assert [fault.where for fault in caught.value.faults] == ["file:max_total", "file:components.activation"]
    assert "did you mean activations?" in str(caught.value)
