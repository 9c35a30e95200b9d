"""ms-swift's arguments. Expectations: swift/arguments (sft_args.py, tuner_args.py), swift/megatron/arguments, swift/config."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

FULL = """\
# 76GiB
CUDA_VISIBLE_DEVICES=0 \\
swift sft \\
    --model Qwen/Qwen2.5-7B-Instruct \\
    --train_type full \\
    --dataset swift/self-cognition#1000 \\
              'another/one#500' \\
    --max_length 4096 \\
    --per_device_train_batch_size 2 \\
    --system 'You are a helpful assistant.'
"""
DPO = """\
NPROC_PER_NODE=4 CUDA_VISIBLE_DEVICES=0,1,2,3 \\
swift rlhf --rlhf_type dpo --model Qwen/Qwen2.5-7B-Instruct --train_type full --torch_dtype bfloat16 \\
    --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --max_length 2048 --deepspeed zero3_offload \\
    --attn_impl flash_attn --padding_free true --warmup_ratio 0.05
"""
MEGATRON = """\
NPROC_PER_NODE=8 \\
megatron sft \\
    --model Qwen/Qwen2.5-14B \\
    --tensor_model_parallel_size 4 \\
    --global_batch_size 16 \\
    --max_length 8192 \\
    --sequence_parallel true
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, name="train.sh", **flags).run)


def test_a_whole_script() -> None:
    found = reading(FULL, name="train.sh")
    assert found.format == "ms-swift"
    assert found.run == {
        "model": "Qwen/Qwen2.5-7B-Instruct", "gpus": 1, "precision": "bf16-autocast", "batch_size": 2, "grad_accum": 8,
        "optimizer": "adamw_torch_fused", "checkpointing": {"mode": "full"}, "seq_len": 4096,
    }  # fmt: skip
    assert found.origins["seq_len"].line == 8
    assert "keys-not-read" not in codes(found)


LORA = FULL.replace("full", "lora")
RUNS: list[tuple[str, dict[str, Any]]] = [
    (LORA, {"lora": {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": "all-linear", "dtype": "fp32"}}),
    (LORA.replace("--max_length", "--quant_bits 4 --quant_method bnb --max_length"), {"quantize": {"name": "nf4", "double": True}}),
    (LORA.replace("--max_length", "--lora_rank 16 --target_modules q_proj v_proj --max_length"),
     {"lora.rank": 16, "lora.targets": ["q_proj", "v_proj"]}),
    (FULL.replace("--max_length", "--gradient_checkpointing false --packing true --max_length"),
     {"checkpointing": "none", "packing": True}),
    (DPO, {
        "gpus": 4, "batch_size": 8, "grad_accum": 1, "precision": "mixed-bf16", "attention": "flash", "packing": True,
        "companions": [{"role": "reference", "dtype": "bf16"}], "sharding.strategy": "zero3",
        "sharding.offload_param": {"device": "cpu", "pin_memory": True}}),
    (DPO.replace("train_type full", "train_type lora"), {
        "companions": [{"role": "reference", "shared": True}], "lora.dtype": "bf16", "loss": "log-probs"}),
    (DPO.replace("dpo", "grpo"), {
        "companions": [{"role": "reference", "dtype": "bf16", "after": False}], "loss": "log-probs"}),
    (DPO.replace("dpo", "grpo").replace("train_type full", "train_type lora"), {
        "companions": [{"role": "reference", "shared": True, "after": False}]}),
    (DPO.replace("dpo", "grpo --beta 0"), {"companions": None, "loss": "log-probs"}),
    (LORA.replace("--max_length", "--label_smoothing_factor 0.1 --max_length"), {"loss": "label-smoothing"}),
    (MEGATRON, {
        "gpus": 8, "parallel": {"tensor": 4, "sequence": True}, "precision": "megatron-bf16", "batch_size": 1, "grad_accum": 8,
        "checkpointing": "selective", "seq_len": 8192, "implementation": "megatron", "sharding": {
            "strategy": "megatron", "distributed_optimizer": True, "recompute_granularity": "selective",
            "cross_entropy_loss_fusion": True}}),
    (MEGATRON.replace("--max_length", "--tuner_type lora --max_length"), {"lora.rank": 8}),
    ("model: Qwen/Qwen2.5-7B-Instruct\ntuner_type: lora\ndataset: [a]\nmax_length: 2048\n", {"lora.rank": 8, "grad_accum": 16}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    found = read(text) if "swift" in text or "megatron" in text else dict(reading(text, gpus=1).run)
    assert parts(found, expected) == expected


@pytest.mark.parametrize("text", [LORA, DPO, MEGATRON])
def test_it_gives_an_estimate(text: str) -> None:
    assert estimate_run(parse_run(read(text))).memory.total > 0


@pytest.mark.parametrize(("text", "told"), [
    (FULL.replace("full", "adalora"), "'adalora' is not modelled"),
    (FULL.replace("--max_length", "--torch_dtype int8 --max_length"), "'int8' is none of"),
    (FULL.replace("Qwen/Qwen2.5-7B-Instruct", "nobody/nothing"), "nobody/nothing"),
])  # fmt: skip
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1


VISION = """\
swift sft --model Qwen/Qwen2.5-VL-7B-Instruct --dataset x --tuner_type {kind} --max_length 4096 --torch_dtype bfloat16 {more}
"""


@pytest.mark.parametrize(("kind", "more", "expected"), [
    ("lora", "--freeze_vit false --freeze_aligner false", {"lora.exclude": None}),
    ("lora", "--lora_dtype bfloat16 --modules_to_save embed_tokens lm_head",
     {"lora.dtype": "bf16", "lora.save_modules": ["embed_tokens", "lm_head"]}),
    ("lora", "--target_regex '.*layers.*q_proj'", {"lora.targets": ".*layers.*q_proj", "lora.exclude": None}),
    ("full", "--freeze_parameters model.language_model.embed_tokens lm_head", {"lora": None}),
    ("full", "--freeze_vit false --freeze_aligner false", {"freeze": None}),
    ("full", "--freeze_parameters_ratio 1 --trainable_parameters lm_head", {"train": ["^lm_head"], "freeze": None}),
    ("lora", "--packing true --packing_length 8192", {"seq_len": 8192, "packing": True}),
])  # fmt: skip
def test_what_learns_and_what_is_adapted(kind: str, more: str, expected: dict[str, Any]) -> None:
    found = reading(VISION.format(kind=kind, more=more), name="go.sh", gpus=1)
    assert parts(found.run, expected) == expected


def test_towers_stay_as_they_are_where_nothing_is_said() -> None:
    adapted = estimate_run(parse_run(dict(reading(VISION.format(kind="lora", more=""), name="go.sh", gpus=1).run)))
    everywhere = VISION.format(kind="lora", more="--freeze_vit false --freeze_aligner false")
    assert (
        adapted.model.trainable
        < estimate_run(parse_run(dict(reading(everywhere, name="go.sh", gpus=1).run))).model.trainable
    )
    tuned = dict(reading(VISION.format(kind="full", more=""), name="go.sh", gpus=1).run)
    assert any("visual" in pattern for pattern in tuned["freeze"])


def test_generated_tokens_come_after_the_prompt() -> None:
    text = (
        "swift rlhf --rlhf_type grpo --model Qwen/Qwen2.5-7B --dataset x --max_length 2048 --max_completion_length 4096"
    )
    assert reading(text, name="go.sh", gpus=1).run["seq_len"] == 6144
    taught = text.replace("grpo", "gkd") + " --teacher_model Qwen/Qwen2.5-14B"
    assert reading(taught, name="go.sh", gpus=1).run["companions"][-1]["model"] == "Qwen/Qwen2.5-14B"
