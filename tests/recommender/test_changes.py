"""How intrusive a change is, and what is unsafe."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from memcalc.recommender.changes import LEVELS, changes, hints, intrusion, score
from memcalc.run.validation import parse_run

ASKED = {"model": "llama-3-8b"}

# what is changed, and its level: the order of the issue of intrusiveness, free switches first
LEVEL_OF: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 8}, "resources"),
    ({"gpu": "h100-80gb"}, "resources"),
    ({"optimizer": {"name": "adamw", "implementation": "fused"}}, "free"),
    ({"attention": "flash"}, "free"),
    ({"loss": "fused-linear"}, "free"),
    ({"implementation": "hf-liger"}, "free"),
    ({"optimizer": "adam"}, "free"),
    ({"checkpointing": "full"}, "time"),
    ({"offload": "activations"}, "time"),
    ({"optimizer": "adamw-8bit"}, "numerics"),
    ({"precision": "bf16"}, "numerics"),
    ({"optimizer": "adafactor"}, "tuning"),
    ({"optimizer": "lion"}, "tuning"),
    ({"lora": 16}, "method"),
]


@pytest.mark.parametrize(("change", "level"), LEVEL_OF)
def test_levels(change: dict[str, Any], level: str) -> None:
    (found,) = changes(parse_run(ASKED), parse_run({**ASKED, **change}))
    assert found.level == level
    assert found.path == next(iter(change))


def test_several_gpus_need_a_strategy_and_another_strategy_costs_time() -> None:
    one, eight = parse_run(ASKED), parse_run({**ASKED, "gpus": 8, "sharding": "fsdp"})
    assert {change.level for change in changes(one, eight)} == {"resources"}
    asked = parse_run({**ASKED, "gpus": 8})
    (found,) = changes(asked, eight)
    assert (found.path, found.level, found.after) == ("sharding", "time", "fsdp")
    assert changes(asked, parse_run({**ASKED, "gpus": 8, "sharding": "ddp"})) == ()


def test_no_change_is_none() -> None:
    found = intrusion(changes(parse_run(ASKED), parse_run(ASKED)))
    assert (found.level, found.score) == ("none", 0)


def test_one_change_of_a_level_weighs_more_than_many_below_it() -> None:
    for lower, higher in pairwise(LEVELS[2:]):
        assert score({lower: 12}) < score({higher: 1})


def test_changes_are_told_the_least_intrusive_first() -> None:
    made = parse_run({**ASKED, "lora": 16, "quantize": "nf4", "checkpointing": "full", "attention": "flash"})
    assert [change.level for change in changes(parse_run(ASKED), made)] == ["free", "time", "method", "method"]


UNSAFE: list[tuple[dict[str, Any], str]] = [
    ({"precision": "fp16"}, "under- and overflow"),
    ({"precision": "bf16"}, "not for long pre-training"),
    ({"precision": "mixed-fp16"}, "loss scaling"),
    ({"optimizer": "adafactor"}, "no drop-in"),
    ({"optimizer": "lomo", "grad_accum": 2}, "no gradient accumulation"),
]


@pytest.mark.parametrize(("change", "said"), UNSAFE)
def test_unsafe_hints(change: dict[str, Any], said: str) -> None:
    assert any(said in hint for hint in hints(parse_run({**ASKED, **change}), "full"))


def test_what_is_safe_needs_no_hint() -> None:
    for change in (
        {},
        {"precision": "mixed-bf16"},
        {"precision": "bf16-stochastic-rounding"},
        {"optimizer": "adamw-8bit"},
    ):
        assert list(hints(parse_run({**ASKED, **change}), "full")) == [], change
    assert list(hints(parse_run({**ASKED, "precision": "bf16", "lora": 16}), "lora")) == []
