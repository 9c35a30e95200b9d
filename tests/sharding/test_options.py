"""How options in a framework's own words are read."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.sharding import options

READ = [
    (options.flag, True, True),
    (options.count, "500_000_000", 500_000_000),
    (options.count, 5e8, 500_000_000),
    (options.amount, 0, 0),
    (options.number, 0.5, 0.5),
    (options.dtype, "torch.bfloat16", "bf16"),
    (options.dtype, None, ""),
    (options.one_of("FULL_SHARD", "_HYBRID"), "full-shard", "FULL_SHARD"),
    (options.one_of("FULL_SHARD", "_HYBRID"), "hybrid", "_HYBRID"),
    (options.either(options.flag, options.count), 4, 4),
]
REFUSED = [
    (options.flag, "yes", "neither true nor false"),
    (options.count, 0, "less than 1"),
    (options.count, True, "no whole number"),
    (options.count, 2.5, "no whole number"),
    (options.amount, -1, "no whole number"),
    (options.number, 0, "no number above zero"),
    (options.dtype, "int8", "no dtype to train in"),
    (options.one_of("layers", "none"), "layer", "did you mean layers?"),
]


@pytest.mark.parametrize(("reader", "value", "meant"), READ)
def test_a_value_as_it_is_meant(reader: options.Reader, value: Any, meant: Any) -> None:
    assert reader(value) == meant


@pytest.mark.parametrize(("reader", "value", "words"), REFUSED)
def test_a_value_that_is_none(reader: options.Reader, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reader(value)


def test_the_nearest_option_is_named() -> None:
    with pytest.raises(RunInvalid, match=r"sharding\.bucket_cap: ddp has no such option; nearest: bucket_cap_mb"):
        options.read({"bucket_cap": 1}, {"bucket_cap_mb": options.count}, "ddp")
