"""Steps of torchtitan's own mixtures of experts, with and without expert parallelism.

`torchtitan_steps.jsonl` was recorded from torchtitan 0.2.2 with torch 2.13.0 on fake tensors, over a process group that only
believes in its other ranks: Qwen3Model, DeepSeekV3Model and Llama 4's Transformer as apply_moe_ep_tp, apply_ac and apply_fsdp
wrap them, every rank getting as many tokens as it sends. nn.RMSNorm is recorded as the one kernel that it is on a GPU, and
waiting for a collective makes no tensor. DeepSeek's heads, whose values are narrower than its keys, run as plain operations
on a CPU.
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

ROWS = [json.loads(line) for line in Path(__file__).with_name("torchtitan_steps.jsonl").read_text("utf-8").splitlines()]
WITHIN = 0.0025
ON_CPU = 0.01  # attention in the forward pass, which is not the peak


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_as_recorded(row: Mapping[str, Any]) -> None:
    plan = resolve(load({**row["run"], "model": row["config"]}).run)
    step = simulate(plan.ranks[0] if plan.ranks else plan)
    assert step
    assert step.gradients == row["gradients"]
    assert step.after_forward == pytest.approx(row["after_forward"], rel=WITHIN)
    plain = not row["config"]["model_type"].startswith("deepseek")
    assert step.phases["forward"] == pytest.approx(row["phases"]["forward"], rel=WITHIN if plain else ON_CPU)
    assert step.phases["backward"] == pytest.approx(row["phases"]["backward"], rel=WITHIN)


TITAN: dict[str, Any] = {
    "model": "deepseek-v2-lite", "gpus": 64, "seq_len": 512, "implementation": "torchtitan", "precision": "mixed-bf16",
    "checkpointing": "full", "sharding": {"strategy": "fsdp", "wrap": "layers+embed+head"},
}  # fmt: skip


@pytest.mark.parametrize(("parallel", "message"), [
    ({"expert": 8, "tensor": 4, "sequence": True, "expert_tensor": 2}, "ETP=TP or ETP=1"),
    ({"expert": 48}, "must divide"),
])  # fmt: skip
def test_what_torchtitan_refuses(parallel: dict[str, Any], message: str) -> None:
    with pytest.raises(RunInvalid, match=message):
        estimate({**TITAN, "parallel": parallel})


def test_experts_are_shared_out_over_all_the_ranks_whatever_the_degrees() -> None:
    """Experts are 92 % of the parameters: efsdp * ep * etp = fsdp * tp (ParallelDims.build_mesh)."""
    degrees: list[dict[str, Any]] = [
        {}, {"expert": 8}, {"expert": 64}, {"expert": 8, "tensor": 2, "sequence": True},
        {"expert": 8, "tensor": 2, "sequence": True, "expert_tensor": 2}, {"expert": 16, "context": 2},
    ]  # fmt: skip
    weights = [estimate({**TITAN, "parallel": parallel}).memory.components.weights for parallel in degrees]
    assert max(weights) < 1.01 * min(weights)


def test_tensor_parallel_ranks_that_share_no_expert_take_a_part_of_the_tokens_each() -> None:
    """ReordererSequenceParallel; with experts divided, too, each rank keeps all tokens' rows."""
    parted, divided = (
        estimate({**TITAN, "checkpointing": "none", "batch_size": 4,
                  "parallel": {"expert": 8, "tensor": 4, "sequence": True, "expert_tensor": degree}}).memory
        for degree in (1, 4)
    )  # fmt: skip
    assert parted.components.activations < divided.components.activations
