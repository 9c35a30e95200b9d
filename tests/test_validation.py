"""From a mapping to a Run: shorthands, and every fault at once in plain words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.run import Checkpointing, Run, Sharding
from memcalc.validation import parse_run, schema

SHORTHANDS = [
    ({"checkpointing": "full"}, "checkpointing", Checkpointing(mode="full")),
    ({"checkpointing": True}, "checkpointing", Checkpointing(mode="full")),
    ({"checkpointing": False}, "checkpointing", Checkpointing(mode="none")),
    ({"checkpointing": {"mode": "full", "reentrant": True}}, "checkpointing", Checkpointing(mode="full", reentrant=True)),
    ({"sharding": "fsdp"}, "sharding", Sharding(strategy="fsdp")),
    (
        {"sharding": {"strategy": "zero2", "reduce_bucket_size": 500_000_000}}, "sharding",
        Sharding(strategy="zero2", options={"reduce_bucket_size": 500_000_000}),
    ),
    ({"offload": False}, "offload", "none"),
    ({"lora": False}, "lora", None),
    ({"quantize": "none"}, "quantize", None),
    ({"gpu": 80}, "gpu", "80"),
    ({"batch_size": "8"}, "batch_size", 8),
]  # fmt: skip


@pytest.mark.parametrize(("given", "key", "expected"), SHORTHANDS)
def test_shorthands(given: dict[str, Any], key: str, expected: object) -> None:
    assert getattr(parse_run({"model": "7b", **given}), key) == expected


def test_a_bare_number_is_the_rank_of_lora() -> None:
    lora = parse_run({"model": "7b", "lora": 16}).lora
    assert lora is not None
    assert lora.rank == 16


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"batch_size": 0}, "batch_size", "at least 1"),
    ({"batch_size": -4}, "batch_size", "at least 1"),
    ({"batch_size": 1e30}, "batch_size", "at most 10^9"),
    ({"batch_size": math.nan}, "batch_size", "not a whole number"),
    ({"batch_size": math.inf}, "batch_size", "not a whole number"),
    ({"batch_size": True}, "batch_size", "not a number"),
    ({"batch_size": "many"}, "batch_size", "not a whole number"),
    ({"batch_size": [1]}, "batch_size", "not a whole number"),
    ({"seq_len": 2048.5}, "seq_len", "not a whole number"),
    ({"attention": "flesh"}, "attention", "did you mean flash?"),
    ({"checkpointing": "ful"}, "checkpointing.mode", "did you mean full?"),
    ({"checkpointing": {"mode": "full", "evry": 2}}, "checkpointing.evry", "did you mean every?"),
    ({"lora": {"rnak": 16}}, "lora.rnak", "did you mean rank"),
    ({"lora": {"rank": "high"}}, "lora.rank", "not a whole number"),
    ({"sequence_length": 4096}, "sequence_length", "did you mean seq_len"),
    ({"optimiser": "adamw"}, "optimiser", "did you mean optimizer?"),
    ({"gpus": 0}, "gpus", "at least 1"),
    ({"parallel": {"tensor": 0}}, "parallel.tensor", "at least 1"),
    ({"keep_outputs": "perhaps"}, "keep_outputs", "not true or false"),
]


@pytest.mark.parametrize(("given", "where", "what"), FAULTS)
def test_a_fault_names_its_place_and_the_fix(given: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"model": "7b", **given})
    told = {fault.where: fault.what for fault in caught.value.faults}
    assert list(told) == [where]
    assert what in told[where]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"batch_size": 0, "attention": "flesh", "optimiser": "adamw", "gpus": "x"})
    assert sorted(fault.where for fault in caught.value.faults) == ["attention", "batch_size", "gpus", "model", "optimiser"]
    assert caught.value.exit_code == 3


def test_a_place_stands_before_each_fault() -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"model": "7b", "gpus": 0}, "run.yaml", lambda path: f"run.yaml:2 {path}")
    assert "run.yaml:2 gpus: 0 is out of range: it must be at least 1" in str(caught.value)


def test_the_schema_knows_every_key_of_a_run() -> None:
    from dataclasses import fields

    assert set(schema()["properties"]) == {field.name for field in fields(Run)}
    assert schema()["additionalProperties"] is False
