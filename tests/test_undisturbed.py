"""Long computations without the garbage collector."""

from __future__ import annotations

import gc

import pytest

from memcalc import estimate
from memcalc.undisturbed import undisturbed


@undisturbed
def collecting(*, fails: bool = False) -> bool:
    """Whether the collector is at work."""
    if fails:
        raise ValueError
    return gc.isenabled()


def test_the_collector_waits() -> None:
    assert gc.isenabled()
    assert not collecting()
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ValueError, match=r"^$"):
        collecting(fails=True)
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        assert not collecting()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_as_it_was_after_an_estimate() -> None:
    assert estimate({"model": "gpt2"}).memory.reserved
    assert gc.isenabled()
