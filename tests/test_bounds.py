"""Bounds hold as they say, and pydantic understands them."""

from __future__ import annotations

import math

import pytest

from memcalc.bounds import Ge, Le
from memcalc.run.faults import schema


@pytest.mark.parametrize(("bound", "value", "holds"), [
    (Ge(1), 1, True), (Ge(1), 0, False), (Le(8), 8, True), (Le(8), 9, False), (Ge(0), math.nan, False), (Le(0), math.nan, False),
])  # fmt: skip
def test_a_bound(bound: Ge | Le, value: float, holds: bool) -> None:
    assert bound.holds(value) is holds


def test_the_schema_shows_the_bounds() -> None:
    batch = schema()["properties"]["batch_size"]
    assert (batch["minimum"], batch["maximum"]) == (1, 10**9)
