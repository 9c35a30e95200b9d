"""Axolotl's YAML. Expectations: axolotl/utils/schemas, loaders/model.py, core/builders, monkeypatch/accelerate/fsdp2.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

BASE = "base_model: Qwen/Qwen2.5-0.5B\nsequence_len: 2048\nmicro_batch_size: 2\nflash_attention: true\n"
LORA = BASE + "adapter: lora\nlora_r: 16\nlora_alpha: 32\n"
FSDP = "fsdp_config: {{fsdp_version: {}, transformer_layer_cls_to_wrap: Qwen2DecoderLayer}}\n"


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{"gpus": 8, **flags}).run)


def test_full_tuning_with_axolotl_s_defaults() -> None:
    found = reading("base_model: Qwen/Qwen2.5-0.5B\nval_set_size: 0.1\n", gpus=1)
    assert found.format == "axolotl"
    assert found.run == {
        "model": "Qwen/Qwen2.5-0.5B", "seq_len": 512, "batch_size": 1, "grad_accum": 1, "checkpointing": "none",
        "precision": "bf16-autocast", "optimizer": "adamw_torch_fused",
    }  # fmt: skip
    assert found.origins["seq_len"].default == "axolotl/utils/schemas/config.py"
    assert {"longest-sample", "fp32-embeddings"} <= codes(found)


RUNS: list[tuple[str, dict[str, Any]]] = [
    # what the weights are kept in, engine by engine
    (BASE, {"precision": "bf16-autocast", "sharding": None, "attention": "flash"}),
    (BASE + "bf16: false\nfp16: true\n", {"precision": "fp16"}),
    (BASE + "bf16: false\n", {"precision": "fp32"}),
    (BASE + FSDP.format(1), {"precision": "mixed-bf16", "sharding.version": 1}),
    (BASE + FSDP.format(2),
     {"precision": "bf16-autocast", "sharding.version": 2, "sharding.param_dtype": "bf16"}),
    (BASE + "deepspeed: deepspeed_configs/zero3_bf16.json\n", {"precision": "mixed-bf16", "sharding.strategy": "zero3"}),
    (BASE + "deepspeed: deepspeed_configs/zero2.json\n",
     {"sharding.strategy": "zero2", "sharding.offload_optimizer": {"device": "cpu"}}),
    (BASE + FSDP.format(2) + "dp_replicate_size: 2\n", {"sharding.strategy": "hsdp", "sharding.replicate": 2}),
    # batches
    (BASE + "gradient_accumulation_steps: 4\nsample_packing: true\n", {"grad_accum": 4, "packing": True, "batch_size": 2}),
    (BASE + "sample_packing: true\nflash_attention: false\n", {"packing": None}),
    (BASE + "sample_packing: true\nmultipack_real_batches: true\n", {"packing": None}),
    (BASE + "batch_size: 16\n", {"grad_accum": 8}),
    (BASE + "tensor_parallel_size: 2\ncontext_parallel_size: 2\n", {"parallel": {"tensor": 2, "context": 2}}),
    # checkpoints are re-entrant but in preference training, or where the options say so
    (BASE + "gradient_checkpointing: true\n", {"checkpointing": {"mode": "full", "reentrant": True}}),
    (BASE + "gradient_checkpointing: true\nrl: dpo\n", {"checkpointing": {"mode": "full"}}),
    (BASE + "gradient_checkpointing: true\ngradient_checkpointing_kwargs: {use_reentrant: false}\n",
     {"checkpointing": {"mode": "full"}}),
    (BASE + "gradient_checkpointing: offload\n", {"checkpointing.offload": True, "checkpointing.reentrant": True}),
    # optimizers, kernels, losses
    (BASE + "optimizer: paged_adamw_8bit\n", {"optimizer": "paged_adamw_8bit"}),
    (BASE + "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n", {"loss": "fused-linear"}),
    (BASE + "plugins: [axolotl.integrations.liger.LigerPlugin]\nliger_rms_norm: true\nliger_glu_activation: true\n"
     "liger_fused_linear_cross_entropy: true\n", {"implementation": "hf-liger", "loss": "fused-linear"}),
    (BASE + "chunked_cross_entropy: true\n", {"loss": {"kind": "chunked", "chunks": 8}}),
    (BASE + "attn_implementation: sdpa\nflash_attention: false\n", {"attention": "sdpa"}),
    (BASE + "unfrozen_parameters: ['^lm_head.weight$', 'embed_tokens.weight$[:100]']\n",
     {"train": ["^lm_head.weight$", "embed_tokens.weight$"]}),
    # adapters
    (LORA, {"lora.rank": 16, "lora.alpha": 32.0, "lora.dtype": "fp32", "precision": "bf16-autocast", "quantize": None}),
    (LORA + "lora_target_linear: true\n", {"lora.targets": "all-linear"}),
    (LORA + "lora_target_modules: [q_proj]\nlora_target_linear: true\n", {"lora.targets": "all-linear"}),
    (LORA + "lora_target_modules: 'layers.*(q|v)_proj'\n", {"lora.targets": "layers.*(q|v)_proj"}),
    (LORA + "lora_modules_to_save: [embed_tokens, lm_head]\npeft_use_dora: true\n",
     {"lora.save_modules": ["embed_tokens", "lm_head"], "lora.dora": True}),
    (LORA + "load_in_8bit: true\n", {"quantize": {"name": "int8", "upcast": False}}),
    (LORA.replace("lora\n", "qlora\n") + "load_in_4bit: true\n",
     {"quantize": {"name": "nf4", "double": True, "storage": "bf16", "upcast": False}}),
    (LORA + "peft_autocast_adapter_dtype: false\n", {"lora.dtype": "bf16"}),
    (LORA + "deepspeed: deepspeed_configs/zero1.json\n", {"lora.dtype": "bf16", "sharding.strategy": "zero1"}),
    (LORA + FSDP.format(1), {"precision": "bf16-autocast", "lora.dtype": "fp32"}),
    # preferences: pairs, a frozen copy unless adapters are switched off for it; generated rows
    (LORA + "load_in_4bit: true\nllama4_linearized_experts: true\n", {"quantize.experts": True}),
    (BASE + "rl: dpo\n", {"batch_size": 4, "companions": [{"role": "reference", "model": "same", "dtype": "bf16"}]}),
    (BASE + "rl: dpo\nprecompute_ref_log_probs: true\n", {"companions": None}),
    (LORA + "rl: dpo\n", {"batch_size": 4, "companions": [{"role": "reference", "shared": True}], "loss": "fused-log-probs"}),
    (BASE + "rl: kto\n", {
        "batch_size": 2, "loss": "fused-log-probs",
        "companions": [{"role": "reference", "model": "same", "dtype": "bf16"}]}),
    (BASE + "rl: orpo\n", {"batch_size": 4, "companions": None, "loss": {"kind": "log-probs", "nll": True}}),
    (LORA + "rl: grpo\ntrl: {beta: 0.1}\n", {"companions": [{"role": "reference", "shared": True, "after": False}]}),
    (BASE + "rl: grpo\ntrl: {max_completion_length: 256}\n", {"seq_len": 768, "companions": None}),
    (BASE + "rl: gdpo\ntrl: {max_completion_length: 256}\n", {"seq_len": 768, "companions": None, "loss": "fused-log-probs"}),
    (BASE + "rl: simpo\n", {"companions": [{"role": "reference", "model": "same", "dtype": "bf16", "forward": False}]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_deepspeed_s_file_beside_is_taken_before_the_one_that_axolotl_ships(tmp_path: Path) -> None:
    folder = tmp_path / "deepspeed_configs"
    folder.mkdir()
    shipped = reading(BASE + "deepspeed: deepspeed_configs/zero1.json\n", gpus=8, folder=tmp_path)
    assert "shipped" in codes(shipped)
    (folder / "zero1.json").write_text('{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}')
    own = reading(BASE + "deepspeed: deepspeed_configs/zero1.json\n", gpus=8, folder=tmp_path)
    assert own.run["sharding"]["strategy"] == "zero2"
    assert "shipped" not in codes(own)


def test_patterns_of_older_names_are_of_today_s() -> None:
    text = LORA.replace("Qwen/Qwen2.5-0.5B", "mistralai/Voxtral-Mini-3B-2507")
    found = reading(
        text + r"lora_target_modules: 'language_model.model.layers.[\d]+.self_attn.(q|k)_proj'" + "\n", gpus=1
    )
    assert found.run["lora"]["targets"] == r"model.language_model.layers.[\d]+.self_attn.(q|k)_proj"
    assert "older-names" in codes(found)
    hostile = reading(text + "lora_target_modules: '([a-z._0-9]+)+!'\n", gpus=1)
    assert hostile.run["lora"]["targets"] == "([a-z._0-9]+)+!"


def test_gpus_are_the_product_of_the_degrees_where_the_sharded_one_is_written() -> None:
    assert reading(BASE + "dp_shard_size: 2\ntensor_parallel_size: 2\n").run["gpus"] == 4
    experts = reading(BASE + "dp_shard_size: 2\nexpert_parallel_size: 2\n")
    assert experts.run["gpus"] == 4
    assert "not-modelled" in codes(experts)


def test_what_is_not_counted_is_named() -> None:
    found = reading(BASE + "torch_compile: true\nneftune_noise_alpha: 5\nsome_new_key: 1\n", gpus=1)
    told = {note.path.split()[-1]: note.code for note in found.warnings}
    assert told == {
        "torch_compile": "not-modelled",
        "neftune_noise_alpha": "not-modelled",
        "some_new_key": "keys-not-read",
    }
    assert "lora-kernels" in codes(reading(LORA, gpus=1))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE + "micro_batch_size: many\n", "micro_batch_size"),
        (BASE + "load_in_8bit: true\n", "set an adapter"),
        (BASE + "optimizer: nothing_like_it\n", "nothing_like_it"),
        (BASE.replace("Qwen/Qwen2.5-0.5B", "nobody/nothing"), "nobody/nothing"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("sharding", "recipe"), [("zero2", "mixed-bf16"), ("fsdp", "bf16-autocast"), ("ddp", "bf16-autocast")]
)
def test_precision_follows_from_the_engine_that_is_asked_for(sharding: str, recipe: str) -> None:
    assert read(BASE, sharding=sharding)["precision"] == recipe
