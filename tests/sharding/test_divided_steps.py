"""Steps of divided models: tensor parallelism as torchtitan and transformers have it, expert parallelism as the latter has.

`divided_steps.jsonl` was recorded on fake tensors over a process group that only believes in its other ranks, with torch
2.13.0 and transformers 5.23.0: Llama with ColwiseParallel, RowwiseParallel, SequenceParallel and loss_parallel as torchtitan's
parallelize_llama applies them; `tp_plan: auto` is transformers' apply_tensor_parallelism of a model's own plan; mixtures with
apply_expert_parallelism (AllToAllEP, every rank getting as many tokens as it sends) under fully_shard of experts over efsdp,
layers and the rest over all ranks. torch's loop over DTensors makes other
temporaries in the optimizer's step than its loop over tensors: that phase is not compared under tensor parallelism.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate, load
from memcalc.resolve import resolve
from memcalc.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = [json.loads(line) for line in Path(__file__).with_name("divided_steps.jsonl").read_text("utf-8").splitlines()]
WITHIN = 0.0025
KNOWN = {("qwen2moe-expert4-of-8-b2-full-v1024-l3", "forward"): 0.01}  # it is not the peak


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_as_recorded(row: Mapping[str, Any]) -> None:
    plan = resolve(load({**row["run"], "model": row["config"]}).run).ranks[0]
    step = simulate(plan)
    assert step
    assert step.after_forward == pytest.approx(row["after_forward"], rel=WITHIN)
    for phase in ("forward", "backward"):
        within = KNOWN.get((row["id"], phase), WITHIN)
        assert step.phases[phase] == pytest.approx(row["phases"][phase], rel=within)


def test_logits_that_are_put_together_are_those_of_the_whole_vocabulary() -> None:
    run = {"model": "llama-3-8b", "gpus": 4, "seq_len": 4096, "checkpointing": "full"}
    parts, whole = (
        estimate({**run, "parallel": {"tensor": 4, "tp_plan": plan}}).memory for plan in ("torchtitan", "auto")
    )
    assert parts.components.weights == whole.components.weights
    least = (
        3 * 4 * 4096 * 128256 // 4 * 3
    )  # logits, their logarithms and gradients in fp32: three quarters more of each
    assert whole.phases.backward - parts.phases.backward > least // 2


def test_a_plan_of_transformers_own_divides_no_sequence() -> None:
    with pytest.raises(RunInvalid, match="no sequences"):
        estimate({"model": "llama-3-8b", "gpus": 4, "parallel": {"tensor": 4, "sequence": True, "tp_plan": "auto"}})


def test_a_plan_that_is_not_known_is_said() -> None:
    report = estimate({"model": "gpt2", "gpus": 2, "parallel": {"tensor": 2, "tp_plan": "auto"}})
    assert any("not known here" in note.message for note in report.warnings)


@pytest.mark.parametrize(("run", "message"), [
    ({"sharding": "zero3"}, "implementation: megatron"),
    ({"sharding": {"strategy": "fsdp", "version": 1}}, "FSDP2 alone"),
    ({"sharding": "fsdp", "gpus": 4}, "must divide"),
    ({"sharding": "fsdp", "parallel": {"expert": 8, "tensor": 2}}, "FSDP2 alone"),
])  # fmt: skip
def test_what_expert_parallelism_does_not_go_with(run: dict[str, Any], message: str) -> None:
    base = {"model": "mixtral-8x7b", "gpus": 16, "seq_len": 512, "parallel": {"expert": 8}}
    with pytest.raises(RunInvalid, match=message):
        estimate({**base, **run})
