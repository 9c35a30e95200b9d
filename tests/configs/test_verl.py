"""verl's configs and scripts. Expectations: verl/trainer/config and fsdp_workers.py."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

GRPO = """\
N=8
python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files=$HOME/data/train.parquet \\
    data.max_prompt_length=512 \\
    data.max_response_length=1024 \\
    actor_rollout_ref.model.path=Qwen/Qwen2.5-7B-Instruct \\
    actor_rollout_ref.actor.ppo_mini_batch_size=256 \\
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \\
    actor_rollout_ref.actor.use_kl_loss=True \\
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \\
    actor_rollout_ref.rollout.n=5 \\
    trainer.n_gpus_per_node=$N \\
    trainer.nnodes=2 $@
"""
SFT = """\
data: {train_batch_size: 64, micro_batch_size_per_gpu: 2, max_length: 2048}
model: {partial_pretrain: Qwen/Qwen2.5-7B-Instruct, lora_rank: 32, lora_alpha: 16, target_modules: all-linear, use_liger: true}
trainer: {n_gpus_per_node: 8, nnodes: 1}
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **flags).run)


def test_the_actors_step() -> None:
    found = reading(GRPO, name="run.sh")
    assert found.format == "verl"
    assert found.run == {
        "model": "Qwen/Qwen2.5-7B-Instruct", "gpus": 16, "precision": "mixed-bf16", "checkpointing": "full", "attention": "flash",
        "sharding": {"strategy": "fsdp", "version": 1, "wrap": "layers"}, "optimizer": "adamw", "seq_len": 1536, "batch_size": 8,
        "grad_accum": 10, "companions": [{"role": "reference", "dtype": "bf16", "after": False}],
        "loss": "kernel-log-probs",
    }  # fmt: skip
    assert found.origins["batch_size"].line == 9
    assert "keys-not-read" not in codes(found)


@pytest.mark.parametrize("key", [
    "actor_rollout_ref.model.tiled_mlp.enabled", "actor_rollout_ref.model.mtp.enable_train", "distillation.enabled",
    "actor_rollout_ref.actor.qat.enable", "actor_rollout_ref.actor.freeze_vision_tower",
    "actor_rollout_ref.actor.entropy_from_logits_with_chunking", "reward.reward_model.enable",
])  # fmt: skip
def test_newer_switches_that_are_not_counted_are_named(key: str) -> None:
    assert "not-modelled" in codes(
        reading(GRPO.replace("data.max_prompt", f"{key}=True data.max_prompt"), name="run.sh")
    )


RUNS: list[tuple[str, dict[str, Any]]] = [
    (GRPO.replace("grpo", "gae").replace("use_kl_loss=True", "use_kl_loss=False"),
     {"companions": [{"role": "value", "trainable": True, "forward": False}]}),
    (GRPO.replace("model.path", "model.lora_rank=64 actor_rollout_ref.model.path"), {"lora.rank": 64, "companions": None}),
    (GRPO.replace("ppo_micro_batch_size_per_gpu=8", "use_dynamic_bsz=True"), {"batch_size": 10, "packing": True}),
    (GRPO.replace("actor.use_kl", "actor.optim.optimizer=AdamW8bit actor_rollout_ref.actor.optim.optimizer_impl=bitsandbytes.optim "
                  "actor_rollout_ref.actor.use_kl"), {"optimizer": "bitsandbytes.optim.AdamW8bit"}),
    (GRPO.replace("model.path", "model.use_liger=True actor_rollout_ref.model.path"), {"implementation": "hf-liger",
                                                                                      "loss": "kernel-log-probs"}),
    (GRPO.replace("model.path", "actor.strategy=megatron actor_rollout_ref.model.lora.rank=16 "
                  "actor_rollout_ref.model.lora.type=dora actor_rollout_ref.model.path"), {
        "lora": {"rank": 16, "alpha": 32, "dora": True, "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                                    "down_proj"]},
        "companions": None, "optimizer": "adamw"}),
    (GRPO.replace("actor.use_kl", "actor.fsdp_config.model_dtype=bfloat16 actor_rollout_ref.actor.use_kl"), {"precision": "bf16"}),
    (GRPO.replace("rollout.n=5", "rollout.free_cache_engine=False"), {"margin": "60%"}),
    (GRPO.replace("actor.use_kl", "actor.entropy_coeff=0.001 actor_rollout_ref.actor.use_kl"),
     {"loss": {"kind": "kernel-log-probs", "entropy": True}}),
    (GRPO.replace("actor.use_kl", "model.use_fused_kernels=True actor_rollout_ref.actor.use_kl"), {"loss": "fused-log-probs"}),
    (SFT, {"gpus": 8, "batch_size": 2, "grad_accum": 4, "seq_len": 2048, "lora.rank": 32, "implementation": "hf-liger"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


@pytest.mark.parametrize("text", [GRPO, SFT])
def test_it_gives_an_estimate(text: str) -> None:
    assert estimate_run(parse_run(read(text))).memory.total > 0


def test_a_key_of_the_model_that_is_not_known_is_named() -> None:
    text = GRPO.replace("actor.use_kl", "model.of_tomorrow=1 actor_rollout_ref.actor.use_kl")
    assert "model.of_tomorrow" in str(reading(text).warnings)


def test_a_model_that_only_the_shell_knows() -> None:
    with pytest.raises(RunInvalid, match="MODEL"):
        read(GRPO.replace("Qwen/Qwen2.5-7B-Instruct", "$MODEL_PATH"))


MEGATRON = GRPO.replace(
    "trainer.nnodes=2",
    """actor_rollout_ref.actor.strategy=megatron \\
    actor_rollout_ref.actor.megatron.tensor_model_parallel_size=4 \\
    actor_rollout_ref.actor.megatron.pipeline_model_parallel_size=2 \\
    +actor_rollout_ref.actor.megatron.override_transformer_config.recompute_granularity=full \\
    actor_rollout_ref.actor.megatron.param_offload=True trainer.nnodes=2""",
)
TUNED = """\
model: {path: Qwen/Qwen2.5-7B-Instruct, enable_gradient_checkpointing: true}
engine: {strategy: fsdp2, model_dtype: fp32, fsdp_size: 4, ulysses_sequence_parallel_size: 2, reshard_after_forward: false}
data: {train_batch_size: 64, micro_batch_size_per_gpu: 2, max_length: 2048, use_dynamic_bsz: true, max_token_len_per_gpu: 8192}
trainer: {n_gpus_per_node: 8, nnodes: 1}
"""


@pytest.mark.parametrize(("text", "expected"), [
    (MEGATRON, {"implementation": "megatron", "precision": "megatron-bf16",
                "parallel": {"tensor": 4, "pipeline": 2, "sequence": True},
                "sharding": {"strategy": "megatron", "distributed_optimizer": True}, "checkpointing": "full"}),
    (MEGATRON.replace("actor.strategy=megatron", "actor.grad_clip=1.0"), {"implementation": "megatron"}),
    (GRPO.replace("main_ppo ", "main_ppo --config-name='ppo_megatron_trainer.yaml' "), {
        "implementation": "megatron", "checkpointing": "none"}),
    (GRPO.replace("trainer.nnodes=2", "actor_rollout_ref.actor.strategy=fsdp2 actor_rollout_ref.actor.fsdp_config.fsdp_size=8 "
                  "actor_rollout_ref.actor.fsdp_config.offload_policy=True trainer.nnodes=2"), {
        "sharding": {"strategy": "hsdp", "version": 2, "wrap": "layers", "replicate": 2, "offload_params": True}}),
    (TUNED, {"model": "Qwen/Qwen2.5-7B-Instruct", "packing": True, "batch_size": 8, "parallel.context": 2,
             "precision": "mixed-bf16",
             "sharding": {"strategy": "hsdp", "version": 2, "wrap": "layers", "replicate": 2, "reshard_after_forward": False}}),
    (TUNED.replace("use_dynamic_bsz: true", "use_dynamic_bsz: false"), {"batch_size": 2, "packing": None}),
    (TUNED.replace("strategy: fsdp2", "strategy: megatron, tensor_model_parallel_size: 2"), {
        "implementation": "megatron", "parallel.tensor": 2}),
])  # fmt: skip
def test_engines(text: str, expected: dict[str, Any]) -> None:
    found = reading(text, name="run.sh" if "main_ppo" in text else "sft.yaml")
    assert (found.format, parts(found.run, expected)) == ("verl", expected)
    assert "keys-not-read" not in codes(found)
    assert estimate_run(parse_run(dict(found.run))).memory.peak_allocated > 2**30


@pytest.mark.parametrize(
    ("engine", "expected"), [("fsdp_config.dtype=float32", "fp32"), ("fsdp_config.dtype=float16", "mixed-fp16")]
)
def test_an_engine_computes_in_the_dtype_it_names(engine: str, expected: str) -> None:
    asked = GRPO.replace("actor.use_kl", f"actor.{engine} actor_rollout_ref.actor.use_kl")
    assert reading(asked, name="run.sh").run["precision"] == expected
