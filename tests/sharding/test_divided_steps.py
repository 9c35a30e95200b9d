"""Steps of divided models: tensor parallelism as torchtitan and transformers have it, expert parallelism as the latter has.

`divided_steps.jsonl` was recorded on fake tensors over a process group that only believes in its other ranks, with torch
2.13.0 and transformers 5.23.0: Llama with ColwiseParallel, RowwiseParallel, SequenceParallel and loss_parallel as torchtitan's
parallelize_llama applies them; `tp_plan: auto` is transformers' apply_tensor_parallelism of a model's own plan; mixtures with
apply_expert_parallelism (AllToAllEP, every rank getting as many tokens as it sends) under fully_shard of experts over efsdp,
layers and the rest over all ranks; or without FSDP, over the ranks of the model's own plan (ep_size is tp_size, the batch is
theirs together); beside a tensor degree on the mesh of dense layers, with plans as transformers resolves
them; models that read images have their text divided as its own plan says, the tower whole
(recorded on text alone). With `sharding: fsdp` and a tensor degree fully_shard is around what torchtitan's plan has
divided, on a mesh of both. The gradient of a divided table has the rows of all ranks until the optimizer, or FSDP, sums it.
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
WITHIN, SCALARS = 0.0025, 0.005  # the optimizer's: its step counts are on the device there
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
    if "expert" not in row["run"]["parallel"]:
        assert step.phases["optimizer"] == pytest.approx(row["phases"]["optimizer"], rel=SCALARS)


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


def test_a_plan_that_does_not_train_is_refused_in_the_words_of_torch() -> None:
    with pytest.raises(RunInvalid, match="modified inplace"):
        estimate({"model": {"model_type": "llama4_text"}, "gpus": 2, "parallel": {"tensor": 2, "tp_plan": "auto"}})


def test_a_tower_with_a_plan_of_its_own_is_said_not_to_be_known() -> None:
    """Gemma 4's (and Llama 4's) image encoder is divided too; Gemma 3's, SigLIP, is not."""
    divided: dict[str, Any] = {"gpus": 2, "parallel": {"tensor": 2, "tp_plan": "auto"}}
    for model, known in (("gemma-3-4b", True), ("gemma-4-26b-a4b", False)):
        report = estimate({**divided, "model": model})
        assert known == all(note.path != "parallel.tp_plan" for note in report.warnings)


def test_what_a_plan_does_not_name_is_whole() -> None:
    """Norms with gates of their own (A.X K2), lanes of hidden states (Hunyuan 4); without a plan they are refused."""
    model = {"model_type": "axk2", "hidden_size": 256, "num_hidden_layers": 2}
    run = {"model": model, "gpus": 2, "seq_len": 64}
    assert estimate({**run, "parallel": {"tensor": 2, "tp_plan": "auto"}}).memory.peak_allocated
    with pytest.raises(RunInvalid, match="GatedNorm"):
        estimate({**run, "parallel": {"tensor": 2}})


@pytest.mark.parametrize("steps", [1, 2])
def test_a_table_has_the_gradient_of_all_its_parts(steps: int) -> None:
    run = {"precision": "bf16", "gpus": 4, "seq_len": 256, "grad_accum": steps, "parallel": {"tensor": 4},
           "optimizer": {"name": "adamw", "implementation": "fused"}}  # fmt: skip
    tied, plain = (estimate({**run, "model": model}).memory for model in ("llama-3.2-3b", "llama-3-8b"))
    more = [memory.phases.optimizer - memory.persistent for memory in (tied, plain)]
    assert more[0] < 2**22  # it is summed with the head's
    assert 0 <= more[1] - 3 * 128256 // 4 * 4096 * 2 < 2**22


def test_a_plan_that_is_not_known_is_said() -> None:
    report = estimate({"model": "gpt2", "gpus": 2, "parallel": {"tensor": 2, "tp_plan": "auto"}})
    assert any("not known here" in note.message for note in report.warnings)


@pytest.mark.parametrize(("run", "message"), [
    ({"sharding": "zero3"}, "implementation: megatron"),
    ({"sharding": {"strategy": "fsdp", "version": 1}}, "FSDP2, as transformers"),
    ({"sharding": "fsdp", "gpus": 4}, "must divide"),
    ({"sharding": "fsdp", "parallel": {"expert": 8, "tensor": 2}}, "FSDP2, as transformers"),
    ({"sharding": "fsdp", "parallel": {"expert": 2, "tensor": 4, "tp_plan": "auto"}}, "must be a multiple of `tp_size`"),
    ({"sharding": "fsdp", "parallel": {"expert": 2, "pipeline": 2}}, "Combining token dispatch with pipeline"),
    ({"parallel": {"expert": 4, "tensor": 8, "tp_plan": "auto"}}, "ranks of its own tensor parallelism"),
    ({"sharding": "ddp", "parallel": {"expert": 8, "tensor": 8, "tp_plan": "auto"}}, "ranks of its own tensor parallelism"),
])  # fmt: skip
def test_what_expert_parallelism_does_not_go_with(run: dict[str, Any], message: str) -> None:
    base = {"model": "mixtral-8x7b", "gpus": 16, "seq_len": 512, "parallel": {"expert": 8}}
    with pytest.raises(RunInvalid, match=message):
        estimate({**base, **run})
