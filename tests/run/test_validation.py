"""From a mapping to a Run: shorthands, and every fault at once in plain words."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc.errors import RunInvalid
from memcalc.run import Checkpointing, Companion, Parallel, Run, Sharding, keys
from memcalc.run.conform import Doubt, conform
from memcalc.run.faults import judge, schema
from memcalc.run.spelling import spelled_out
from memcalc.run.validation import parse_run

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
    ({"freeze": "lm_head"}, "freeze", ("lm_head",)),
    ({"train": ["*.bias", "*norm*"]}, "train", ("*.bias", "*norm*")),
    ({"train": "none"}, "train", ()),
    ({"companions": "reference"}, "companions", (Companion(role="reference"),)),
    (
        {"companions": ["ema", {"role": "value", "trainable": True}]}, "companions",
        (Companion(role="ema"), Companion(role="value", trainable=True)),
    ),
    ({"parallel": {"virtual": 2, "expert_tensor": 1}}, "parallel", Parallel(virtual=2, expert_tensor=1)),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "key", "expected"), SHORTHANDS)
def test_shorthands(asked: dict[str, Any], key: str, expected: object) -> None:
    assert getattr(parse_run({"model": "7b", **asked}), key) == expected


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
    ({"companions": ["referense"]}, "companions.0.role", "did you mean reference?"),
    ({"companions": [{"role": "ema", "modle": "7b"}]}, "companions.0.modle", "did you mean model"),
    ({"packing": 3}, "packing", "not true or false"),
    ({"keep_outputs": "perhaps"}, "keep_outputs", "not true or false"),
]


@pytest.mark.parametrize(("asked", "where", "what"), FAULTS)
def test_a_fault_names_its_place_and_the_fix(asked: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"model": "7b", **asked})
    told = {fault.where: fault.what for fault in caught.value.faults}
    assert list(told) == [where]
    assert what in told[where]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"batch_size": 0, "attention": "flesh", "optimiser": "adamw", "gpus": "x"})
    assert sorted(fault.where for fault in caught.value.faults) == [
        "attention",
        "batch_size",
        "gpus",
        "model",
        "optimiser",
    ]
    assert caught.value.exit_code == 3


def test_what_is_no_name() -> None:
    with pytest.raises(RunInvalid, match=r"companions\.0\.model: 3 is not a name"):
        parse_run({"model": "7b", "companions": [{"role": "reference", "model": 3}]})


def test_a_place_stands_before_each_fault() -> None:
    with pytest.raises(RunInvalid) as caught:
        parse_run({"model": "7b", "gpus": 0}, "run.yaml", lambda path: f"run.yaml:2 {path}")
    assert "run.yaml:2 gpus: 0 is out of range: it must be at least 1" in str(caught.value)


def test_the_schema_knows_every_key_of_a_run() -> None:
    assert set(schema()["properties"]) == {field.name for field in fields(Run)}
    assert schema()["additionalProperties"] is False


def test_the_schema_takes_what_stands_for_more() -> None:
    made = schema()
    nothing, one, several = made["properties"]["companions"]["anyOf"]
    assert nothing == {"type": "null"}
    assert one == several["items"] == {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Companion"}]}
    word = {"type": ["string", "integer", "boolean", "null"]}
    assert word in made["$defs"]["Companion"]["properties"]["lora"]["anyOf"]
    assert all(word in made["properties"][key]["anyOf"] for key in ("loss", "lora", "sharding", "checkpointing"))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 10**10), st.floats(), st.sampled_from(["none", "full", "fsdp", "sdpa", "8", "x"]),
    st.fixed_dictionaries({}, optional={"rank": st.integers(-1, 64), "mode": st.just("full"), "tensor": st.integers(0, 9)}),
    st.lists(st.one_of(st.text(max_size=3), st.fixed_dictionaries({"role": st.sampled_from(["ema", "x"])})), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*keys(), "bacth"]), VALUES, max_size=4))
def test_the_quick_look_never_disagrees_with_pydantic(mapping: dict[str, Any]) -> None:
    """What `conform` accepts, pydantic reads as the same Run; what pydantic refuses, `conform` has left to it."""
    mapping = {"model": "7b", **mapping}
    try:
        judged: Run | None = judge(mapping, "the run")
    except RunInvalid:
        judged = None
    try:
        quick: Run | None = conform(Run, spelled_out(mapping))
    except Doubt:
        return
    assert quick == judged
