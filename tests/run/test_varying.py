"""One key of a run changed."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.run.validation import parse_run
from memcalc.run.varying import varied

VARIED: list[tuple[dict[str, Any], str, Any, str, Any]] = [
    ({}, "batch_size", 4, "batch_size", 4),
    ({}, "batch-size", 4, "batch_size", 4),
    ({}, "optimizer", "lion", "optimizer", "lion"),
    (
        {"optimizer": "adamw"},
        "optimizer.implementation",
        "fused",
        "optimizer",
        {"name": "adamw", "implementation": "fused"},
    ),
    (
        {"precision": "bf16"},
        "precision.optimizer_states",
        "fp32",
        "precision",
        {"recipe": "bf16", "optimizer_states": "fp32"},
    ),
]


@pytest.mark.parametrize(("given", "key", "value", "held", "expected"), VARIED)
def test_a_key_is_changed(given: dict[str, Any], key: str, value: Any, held: str, expected: Any) -> None:
    assert getattr(varied(parse_run({"model": "gpt2", **given}), key, value), held) == expected


def test_what_stands_beside_it_stays() -> None:
    run = varied(parse_run({"model": "gpt2", "lora": {"rank": 4, "targets": ["c_attn"]}}), "lora.rank", 32)
    assert run.lora
    assert (run.lora.rank, run.lora.targets) == (32, ("c_attn",))
    fsdp = parse_run({"model": "gpt2", "gpus": 2, "sharding": {"strategy": "fsdp", "reshard_after_forward": True}})
    changed = varied(fsdp, "sharding.reshard_after_forward", False)
    assert changed.sharding
    assert dict(changed.sharding.options) == {"reshard_after_forward": False}


@pytest.mark.parametrize(
    ("key", "value"), [("batchsize", 1), ("batch_size", 0), ("attention", "falsh"), ("lora.rnak", 1)]
)
def test_what_can_not_be_changed(key: str, value: Any) -> None:
    with pytest.raises(RunInvalid):
        varied(parse_run({"model": "gpt2"}), key, value)
