"""Runs side by side: their figures are those of estimates, their differences add up."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import compare, estimate
from memcalc.errors import RunInvalid, UsageError

RUN: dict[str, Any] = {"model": "llama-3.2-1b", "precision": "bf16", "gpu": "h100-80gb", "seq_len": 512}


def test_a_sweep_is_every_combination() -> None:
    answer = compare(RUN, sweep={"optimizer": ["adamw", "adamw-8bit"], "seq_len": [512, 1024]})
    assert answer.swept == ("optimizer", "seq_len")
    assert [tuple(run.differs.values()) for run in answer.runs] == [
        ("adamw", 512), ("adamw", 1024), ("adamw-8bit", 512), ("adamw-8bit", 1024),
    ]  # fmt: skip
    for run in answer.runs:
        assert run.memory == estimate({**RUN, **run.differs}).memory


def test_differences_add_up_to_the_whole() -> None:
    answer = compare(RUN, {**RUN, "optimizer": "adamw-8bit", "seq_len": 1024, "checkpointing": "full"})
    first, second = answer.runs
    assert first.memory
    assert second.memory
    assert first.changes == ()
    delta = sum(change.delta for change in second.changes if change.component == "total")
    assert delta == second.memory.total - first.memory.total
    assert {change.cause.path for change in second.changes} == {"optimizer", "seq_len", "checkpointing.mode"}
    states = [
        change
        for change in second.changes
        if change.component == "optimizer_states" and change.cause.path == "optimizer"
    ]
    parameters = estimate(RUN).model.parameters
    assert sum(change.delta for change in states) == pytest.approx((2.03125 - 4) * parameters, rel=1e-3)


def test_runs_are_told_apart_by_what_differs() -> None:
    answer = compare(RUN, {**RUN, "batch_size": 4})
    assert [run.differs for run in answer.runs] == [{"batch_size": 1}, {"batch_size": 4}]


def test_a_value_deep_inside() -> None:
    answer = compare({**RUN, "lora": {"rank": 4}}, sweep={"lora.rank": [4, 8]})
    ranks = [run.run["lora"]["rank"] for run in answer.runs]
    assert ranks == [4, 8]
    (change,) = {change.cause.path for change in answer.runs[1].changes}
    assert change == "lora.rank"


def test_a_combination_that_is_refused_is_told_in_its_row() -> None:
    answer = compare({**RUN, "precision": "fp32"}, sweep={"attention": ["sdpa", "flash"]})
    assert not answer.runs[0].error
    assert "FlashAttention" in answer.runs[1].error
    assert answer.runs[1].memory is None


def test_what_can_not_be_compared() -> None:
    with pytest.raises(RunInvalid, match="out of range"):
        compare({**RUN, "batch_size": 0})
    with pytest.raises(UsageError, match="1 to 256"):
        compare(RUN, sweep={"batch_size": range(1, 400)})
    with pytest.raises(RunInvalid, match="did you mean batch_size"):  # all of them refused
        compare(RUN, sweep={"batchsize": [1]})
    assert "out of range" in compare(RUN, sweep={"batch_size": [1, 0]}).runs[1].error
