"""OpenRLHF's scripts. Expectations: openrlhf/cli (train_sft.py, train_dpo.py, train_ppo_ray.py), openrlhf/utils/deepspeed."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

SFT = """\
read -r -d '' training_commands <<EOF
openrlhf.cli.train_sft \\
   --max_len 4096 \\
   --train_batch_size 256 \\
   --micro_train_batch_size 2 \\
   --pretrain meta-llama/Meta-Llama-3-8B \\
   --zero_stage 3 \\
   --bf16 \\
   --gradient_checkpointing \\
   --learning_rate 5e-6 --adam_betas 0.9 0.95
EOF
deepspeed --module $training_commands
"""
DPO = SFT.replace("train_sft", "train_dpo").replace("--zero_stage 3", "--packing_samples")
DOTTED = """\
deepspeed --module openrlhf.cli.train_sft --model.model_name_or_path meta-llama/Meta-Llama-3-8B --data.max_len 2048 \\
   --train.batch_size 64 --train.micro_batch_size 4 --ds.zero_stage 2 --ds.adam_offload --ds.lora.rank 16 \\
   --actor.gradient_checkpointing_enable
"""
PPO = """\
ray job submit -- python3 -m openrlhf.cli.train_ppo_ray --actor_num_nodes 1 --actor_num_gpus_per_node 4 \\
   --pretrain meta-llama/Meta-Llama-3-8B --micro_train_batch_size 8 --train_batch_size 128 --prompt_max_len 1024 \\
   --generate_max_len 512 --zero_stage 3 --init_kl_coef 0.01 --ref_num_gpus_per_node 4
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, name="run.sh", **{"gpus": 8, **flags}).run)


def test_a_whole_script() -> None:
    found = reading(SFT, name="run.sh", gpus=8)
    assert found.format == "openrlhf"
    assert found.run == {
        "model": "meta-llama/Meta-Llama-3-8B", "precision": "mixed-bf16", "sharding": {"strategy": "zero3"},
        "optimizer": "deepspeed-fused-adam", "batch_size": 2, "grad_accum": 16, "seq_len": 4096, "checkpointing": "full",
        "attention": "flash", "loss": {"kind": "kernel-log-probs", "fp32": True}, "keep_outputs": True,
    }  # fmt: skip
    assert found.origins["seq_len"].line == 3
    assert "keys-not-read" not in codes(found)


RUNS: list[tuple[str, dict[str, Any]]] = [
    (SFT.replace("--bf16", "--packing_samples --ring_attn_size 2 --overlap_comm --use_liger_kernel"), {
        "parallel.context": 2, "packing": True, "batch_size": 2, "grad_accum": 32, "implementation": "hf-liger",
        "sharding": {"strategy": "zero3", "overlap_comm": True}}),
    (PPO.replace("--zero_stage 3", "--use_dynamic_batch --train_max_tokens_per_gpu 15360"), {
        "batch_size": 10, "packing": True, "seq_len": 1536}),
    (SFT.replace("--zero_stage 3", "--backend fsdp2"), {
        "sharding": {"strategy": "fsdp", "version": 2, "wrap": "layers"}, "optimizer": "adamw", "precision": "mixed-bf16"}),
    (DPO, {
        "batch_size": 4, "packing": True, "sharding": {"strategy": "zero2"},
        "companions": [{"role": "reference", "dtype": "bf16"}]}),
    (DPO.replace("--bf16", "--lora_rank 8 --load_in_4bit"),
     {"companions": None, "lora.rank": 8, "lora.targets": "all-linear", "quantize": "nf4-double"}),
    (SFT.replace("   --gradient_checkpointing \\\n", ""), {"checkpointing": "none"}),
    (DOTTED, {
        "seq_len": 2048, "batch_size": 4, "grad_accum": 2, "lora.rank": 16, "checkpointing": "full",
        "optimizer": "deepspeed-cpu-adam",
        "sharding": {"strategy": "zero2", "offload_optimizer": {"device": "cpu", "pin_memory": True}}}),
    (PPO, {"seq_len": 1536, "companions": None, "batch_size": 8, "keep_outputs": True}),
    (PPO.replace("--ref_num_gpus_per_node 4", "--colocate_actor_ref"),
     {"companions": [{"role": "reference", "dtype": "bf16", "after": False}]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_script_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_gpus_of_the_actor() -> None:
    assert dict(reading(PPO, name="run.sh").run)["gpus"] == 4


@pytest.mark.parametrize("text", [SFT, DOTTED])
def test_it_gives_an_estimate(text: str) -> None:
    assert estimate_run(parse_run({"gpus": 8, **read(text)})).memory.total > 0


def test_what_is_not_known_is_named() -> None:
    assert "ema_of_tomorrow" in str(
        reading(SFT.replace("--bf16", "--ema_of_tomorrow 3"), name="run.sh", gpus=8).warnings
    )


def test_what_is_refused() -> None:
    with pytest.raises(RunInvalid, match="no stage of ZeRO"):
        read(SFT.replace("zero_stage 3", "zero_stage 7"))
