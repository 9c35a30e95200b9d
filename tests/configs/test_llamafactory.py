"""LLaMA-Factory's YAML, both schemas. Expectations: llamafactory/hparams, model/adapter.py, model/patcher.py, v1/."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

BASE = "model_name_or_path: Qwen/Qwen2.5-0.5B\ntemplate: qwen\nstage: sft\ncutoff_len: 1024\nbf16: true\n"
FULL = BASE + "finetuning_type: full\n"
LORA = BASE + "finetuning_type: lora\n"
VISION = FULL.replace("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2-VL-7B-Instruct")
V1 = "model: Qwen/Qwen3-0.6B\ncutoff_len: 512\nmicro_batch_size: 2\nglobal_batch_size: 64\nlr_scheduler_config: {name: cosine}\n"
REFERENCE = [{"role": "reference", "model": "same", "dtype": "bf16"}]
TOWERS = r"(model\.)?(visual\.(?!merger\.)|vision_tower|vision_model|audio_tower|vpm|apm)"
PROJECTORS = r"(model\.)?(visual\.merger|multi_modal_projector|resampler|aligner|connector)"


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{"gpus": 8, **flags}).run)


def test_lora_with_its_defaults() -> None:
    found = reading("model_name_or_path: Qwen/Qwen2.5-0.5B\nfinetuning_type: lora\ntemplate: qwen\n", gpus=1)
    assert found.format == "llamafactory"
    assert found.run == {
        "model": "Qwen/Qwen2.5-0.5B", "batch_size": 8, "grad_accum": 1, "seq_len": 2048, "precision": "bf16",
        "lora": {"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0, "dtype": "fp32"},
        "optimizer": "adamw_torch_fused", "checkpointing": {"mode": "full", "reentrant": True},
    }  # fmt: skip
    assert found.origins["lora.rank"].default == "llamafactory/hparams/finetuning_args.py"
    assert found.origins["checkpointing"].default == "llamafactory/hparams/model_args.py"


RUNS: list[tuple[str, dict[str, Any]]] = [
    # what is trained is fp32, but where nothing is cast
    (FULL, {"precision": "amp-bf16", "lora": None}),
    (FULL.replace("bf16", "fp16"), {"precision": "amp-fp16"}),
    (FULL.replace("bf16: true", "bf16: false"), {"precision": "fp32"}),
    (FULL.replace("bf16: true", "pure_bf16: true"), {"precision": "bf16"}),
    (FULL + "deepspeed: examples/deepspeed/ds_z3_config.json\n", {"precision": "mixed-bf16", "sharding.strategy": "zero3"}),
    (FULL + "use_badam: true\n", {"precision": "mixed-bf16", "train": [r"layers\.0\."]}),
    (LORA, {"precision": "bf16-autocast", "lora.dtype": "fp32"}),
    (LORA + "deepspeed: examples/deepspeed/ds_z2_config.json\n", {"lora.dtype": "bf16", "sharding.strategy": "zero2"}),
    (BASE + "finetuning_type: freeze\n",
     {"precision": {"recipe": "amp-bf16", "frozen": "bf16"}, "train": [r"layers\.(?:22|23)\."]}),
    (BASE + "finetuning_type: freeze\nfreeze_trainable_layers: -1\nfreeze_extra_modules: embed_tokens,norm\n",
     {"train": [r"layers\.(?:0)\.", "embed_tokens", "norm"]}),
    # packed bases
    (LORA + "quantization_bit: 4\n", {"quantize": {"name": "nf4", "double": True, "storage": "bf16", "upcast": False}}),
    (LORA + "quantization_bit: 8\n", {"quantize": {"name": "int8", "upcast": False}}),
    (LORA + "quantization_bit: 3\nquantization_method: hqq\n", {"quantize": {"name": "hqq", "bits": 3}}),
    (LORA.replace("Qwen2.5-0.5B", "Qwen2.5-0.5B-Instruct-AWQ"), {"quantize": "awq"}),
    # adapters
    (LORA + "lora_target: q_proj, v_proj\nlora_rank: 32\nuse_dora: true\nadditional_target: embed_tokens\n",
     {"lora.targets": ["q_proj", "v_proj"], "lora.alpha": 64, "lora.dora": True, "lora.save_modules": ["embed_tokens"]}),
    (BASE + "finetuning_type: oft\noft_block_size: 64\n", {"lora.method": "oft", "lora.block_size": 64}),
    # towers of images: still and without adapters
    (VISION, {"freeze": [f"^{TOWERS}", f"^{PROJECTORS}"]}),
    (VISION + "freeze_vision_tower: false\n", {"freeze": [f"^{PROJECTORS}"]}),
    (VISION.replace("full", "lora"), {"freeze": None, "lora.exclude": f"(?:{PROJECTORS}|{TOWERS}).*"}),
    # checkpoints, kernels, optimizers
    (FULL + "disable_gradient_checkpointing: true\n", {"checkpointing": "none"}),
    (FULL + "use_unsloth_gc: true\n", {"checkpointing": {"mode": "full", "reentrant": True, "offload": True}}),
    (FULL + "enable_liger_kernel: true\nflash_attn: fa2\n",
     {"implementation": "hf-liger", "loss": "fused-linear", "attention": "flash"}),
    (FULL.replace("sft", "dpo") + "enable_liger_kernel: true\n", {"implementation": "hf-liger", "loss": "log-softmax"}),
    (FULL + "use_galore: true\ngalore_rank: 64\noptim: adamw_8bit\n", {"optimizer": {"name": "galore-adamw-8bit", "rank": 64}}),
    (FULL + "use_adam_mini: true\n", {"optimizer": "adam-mini"}),
    (FULL + "optim: paged_adamw_32bit\n", {"optimizer": "paged_adamw_32bit"}),
    # stages
    (FULL.replace("sft", "dpo") + "per_device_train_batch_size: 2\n", {"batch_size": 4, "companions": REFERENCE}),
    (FULL.replace("sft", "dpo") + "pref_loss: simpo\n", {"batch_size": 16, "companions": None}),
    (LORA.replace("sft", "dpo") + "per_device_train_batch_size: 2\n",
     {"batch_size": 4, "companions": [{"role": "reference", "shared": True}], "loss": "log-softmax"}),
    (LORA + "label_smoothing_factor: 0.1\n", {"loss": "label-smoothing"}),
    (FULL.replace("sft", "kto") + "per_device_train_batch_size: 2\n", {"batch_size": 2, "companions": REFERENCE}),
    (FULL.replace("sft", "rm") + "label_smoothing_factor: 0.1\n", {"companions": None, "loss": None}),
    (FULL.replace("sft", "rm") + "per_device_train_batch_size: 2\n", {"batch_size": 4, "companions": None}),
    (FULL.replace("sft", "ppo"), {"companions": [{**REFERENCE[0], "after": False}]}),
    (FULL + "use_asft_loss: true\n", {"companions": [{**REFERENCE[0], "after": False}]}),
    # Megatron-Core
    (FULL + "tensor_model_parallel_size: 2\npipeline_model_parallel_size: 2\nsequence_parallel: true\n"
     "use_distributed_optimizer: true\n",
     {"parallel": {"tensor": 2, "pipeline": 2, "sequence": True}, "precision": "megatron-bf16", "checkpointing": "none",
      "sharding": {"strategy": "megatron", "distributed_optimizer": True}}),
    # the newer schema
    (V1, {"precision": "bf16", "batch_size": 2, "grad_accum": 4, "checkpointing": "full", "attention": "sdpa"}),
    (V1 + "dist_config: {name: fsdp2}\n", {"sharding.version": 2, "sharding.reduce_dtype": "fp32"}),
    (V1 + "peft_config: {name: lora, r: 16, target_modules: all}\nquant_config: {name: bnb, quantization_bit: 4}\n",
     {"lora.rank": 16, "lora.targets": "all-linear", "quantize": "nf4-double"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_rewards_of_ppo_beside_the_policy() -> None:
    run = read(LORA.replace("sft", "ppo") + "reward_model: gpt2\nreward_model_type: full\n")
    assert [(c["role"], c["model"]) for c in run["companions"]] == [("reward", "gpt2")]


def test_unsloths_modules_come_with_its_checkpointing() -> None:
    run = read(LORA + "use_unsloth: true\n")
    assert run["implementation"] == "unsloth"
    assert run["checkpointing"] == {"mode": "full", "reentrant": True, "offload": True}


def test_what_is_not_counted_is_named() -> None:
    told = codes(reading(LORA + "use_kt: true\nuse_unsloth: true\nsome_new_key: 1\n", gpus=1))
    assert {"not-modelled", "keys-not-read"} <= told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FULL + "cutoff_len: long\n", "cutoff_len"),
        (LORA + "quantization_bit: 5\n", "quantization_bit"),
        (FULL.replace("Qwen/Qwen2.5-0.5B", "nobody/nothing"), "nobody/nothing"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1


def test_a_value_head_is_not_counted_and_that_is_said() -> None:
    assert any("value head" in remark.message for remark in reading(FULL.replace("sft", "rm")).warnings)
