"""llm-foundry's YAML. Expectations: llmfoundry/utils/config_utils.py, models/mpt, Composer's FSDPConfig."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

LOADERS = """\
max_seq_len: 2048
train_loader: {name: text}
global_train_batch_size: 256
device_train_microbatch_size: 4
precision: amp_bf16
optimizer: {name: decoupled_adamw, lr: 2.0e-4}
"""
FSDP = """\
fsdp_config: {sharding_strategy: FULL_SHARD, mixed_precision: PURE, activation_checkpointing: true,
              activation_checkpointing_reentrant: false, limit_all_gathers: true}
"""
HUB = f"""\
model: {{name: hf_causal_lm, pretrained_model_name_or_path: meta-llama/Llama-2-7b-hf, use_flash_attention_2: true}}
{LOADERS}"""
MPT = f"""\
model: {{name: mpt_causal_lm, d_model: 768, n_heads: 12, n_layers: 12, max_seq_len: 2048, vocab_size: 50368}}
{LOADERS}"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{"gpus": 8, **flags}).run)


def test_a_model_of_the_hub_without_fsdp() -> None:
    found = reading(HUB, gpus=8)
    assert found.format == "llm-foundry"
    assert found.run == {
        "model": "meta-llama/Llama-2-7b-hf", "seq_len": 2048, "precision": "amp-bf16", "attention": "flash",
        "optimizer": "adamw", "batch_size": 4, "grad_accum": 8, "checkpointing": "none",
    }  # fmt: skip
    assert found.origins["batch_size"].line == 5


RUNS: list[tuple[str, dict[str, Any]]] = [
    (HUB + FSDP, {"checkpointing": {"mode": "full"}, "sharding": {
        "strategy": "fsdp", "version": 1, "wrap": "layers", "sharding_strategy": "FULL_SHARD", "param_dtype": "bf16",
        "reduce_dtype": "bf16", "limit_all_gathers": True, "use_orig_params": True, "no_sync": False}}),
    (HUB + FSDP.replace("PURE", "DEFAULT"), {"sharding.param_dtype": "bf16", "sharding.reduce_dtype": "fp32"}),
    (HUB + FSDP.replace("FULL_SHARD", "NO_SHARD"), {"sharding": "ddp"}),
    (HUB + FSDP.replace("FULL_SHARD", "SHARD_GRAD_OP"), {"sharding.sharding_strategy": "SHARD_GRAD_OP"}),
    (HUB + FSDP.replace("limit_all", "activation_cpu_offload: true, limit_all"),
     {"checkpointing": {"mode": "full", "offload": True}}),
    (HUB.replace("amp_bf16", "fp32"), {"precision": "fp32"}),
    (HUB.replace("amp_bf16", "amp_fp8"), {"precision": "amp-fp8"}),
    (HUB.replace("decoupled_adamw", "decoupled_lionw"), {"optimizer": "lion"}),
    # the global batch is fixed
    (HUB.replace("size: 4", "size: 64"), {"batch_size": 32, "grad_accum": 1}),
    (HUB.replace("size: 4", "size: auto"), {"batch_size": 1, "grad_accum": 32}),
    # adapters on a base in fp32, or in int8
    (HUB.replace("use_flash", "peft_config: {peft_type: LORA, r: 16, target_modules: [q_proj]}, use_flash"),
     {"lora.rank": 16, "lora.targets": ["q_proj"], "precision": {"recipe": "amp-bf16", "frozen": "fp32"}}),
    (HUB.replace("use_flash", "peft_config: {peft_type: LORA, r: 8}, load_in_8bit: true, use_flash"), {"quantize": "int8"}),
    # an MPT has biases and learned positions unless they are asked away: tensor for tensor a GPT-2
    (MPT,
     {"model.model_type": "gpt2", "model.n_inner": 3072, "model.tie_word_embeddings": True, "loss": "fused", "attention": "flash"}),
    (MPT.replace("d_model", "attn_config: {alibi: true, attn_impl: flash}, d_model"),
     {"model.model_type": "mpt", "model.expansion_ratio": 4, "attention": "eager"}),
    (MPT.replace("d_model", "loss_fn: torch_crossentropy, expansion_ratio: 2, d_model"), {"loss": None, "model.n_inner": 1536}),
    # ${...} of other keys, and of `variables`
    (HUB.replace("max_seq_len: 2048", "variables: {max_seq_len: 1024}\nmax_seq_len: ${variables.max_seq_len}"), {"seq_len": 1024}),
    (HUB.replace("use_flash", "config_overrides: {max_position_embeddings: 8192}, use_flash"),
     {"model": {"preset": "meta-llama/Llama-2-7b-hf", "max_position_embeddings": 8192}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_the_config_within_an_mcli_file() -> None:
    inner = "".join(f"  {line}\n" for line in HUB.splitlines())
    found = reading("name: x\ncommand: composer train.py\ncompute: {gpus: 16}\nparameters:\n" + inner)
    assert (found.run["gpus"], found.run["batch_size"], found.run["grad_accum"]) == (16, 4, 4)
    assert found.origins["batch_size"].line == 9


def test_what_is_assumed_and_not_counted_is_named() -> None:
    assert "auto" in codes(reading(HUB.replace("size: 4", "size: auto"), gpus=8))
    alibi = reading(MPT.replace("d_model", "attn_config: {alibi: true}, d_model") + "compile_config: {}\n", gpus=8)
    assert "not-modelled" in codes(alibi)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HUB.replace("amp_bf16", "amp_bf15"), "amp_bf15"),
        (HUB.replace("use_flash", "load_in_8bit: true, use_flash"), "add a peft_config"),
        (HUB.replace("meta-llama/Llama-2-7b-hf", "nobody/nothing"), "nobody/nothing"),
        (MPT.replace("d_model", "ffn_config: {ffn_type: mb_dmoe}, d_model"), "mptmlp"),
        ("name: x\nparameters: {a: 1}\ncommand: composer train.py train/yamls/mpt.yaml\n", "mpt.yaml"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1
