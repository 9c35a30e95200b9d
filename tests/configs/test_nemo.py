"""NeMo's YAML. Expectations: megatron_gpt_model.py, nlp_overrides.py and megatron_gpt_config.yaml of NeMo 2.0."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

GPT = """\
run: {name: gpt}
trainer: {devices: 8, num_nodes: 2, precision: bf16, max_steps: 10}
exp_manager:
  size: ${multiply:${training.model.tensor_model_parallel_size}, ${training.model.pipeline_model_parallel_size}}
model:
  mcore_gpt: true
  micro_batch_size: 2
  global_batch_size: 64
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  virtual_pipeline_model_parallel_size: 3
  sequence_parallel: true
  encoder_seq_length: 2048
  max_position_embeddings: ${.encoder_seq_length}
  num_layers: 24
  hidden_size: 1024
  ffn_hidden_size: ${multiply:4, ${.hidden_size}}
  num_attention_heads: 16
  hidden_dropout: 0.0
  kv_channels: null
  tokenizer: {library: megatron, type: GPT2BPETokenizer, vocab_file: x}
  megatron_amp_O2: true
  transformer_engine: true
  gradient_accumulation_fusion: false
  fp8: false
  fp8_e4m3: false
  activations_checkpoint_granularity: selective
  optim: {name: mcore_distributed_optim, overlap_grad_sync: true, grad_sync_dtype: bf16}
  data: {seq_length: 2048, num_workers: 2}
"""
LLAMA = GPT.replace(
    "  kv_channels",
    """\
  num_query_groups: 8
  normalization: rmsnorm
  activation: fast-swiglu
  bias: false
  position_embedding_type: rope
  share_embeddings_and_output_weights: false
  kv_channels""",
).replace("library: megatron, type: GPT2BPETokenizer", "library: huggingface, type: meta-llama/Meta-Llama-3-8B")
TUNING = """\
run: {model_train_name: llama2_7b}
trainer: {devices: 4, precision: bf16}
model:
  restore_from_path: ${peft.run.model_train_name}/megatron_llama.nemo
  micro_batch_size: 1
  global_batch_size: 32
  megatron_amp_O2: false
  peft:
    peft_scheme: lora
    lora_tuning: {adapter_dim: 16, target_modules: [all]}
  data: {train_ds: {max_seq_length: 1024}}
  optim: {name: fused_adam}
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **flags).run)


def test_the_whole_of_a_file() -> None:
    found = reading(GPT)
    assert found.format == "nemo"
    assert found.run == {
        "gpus": 16, "parallel": {"tensor": 2, "pipeline": 2, "sequence": True, "virtual": 3, "schedule": "interleaved"},
        "seq_len": 2048, "implementation": "megatron", "precision": "megatron-bf16", "checkpointing": "selective",
        "batch_size": 2, "grad_accum": 8, "optimizer": "adamw",
        "sharding": {"strategy": "megatron", "distributed_optimizer": True, "overlap_grad_reduce": True,
                     "gradient_accumulation_fusion": False, "recompute_granularity": "selective", "grad_reduce_in_bf16": True},
        "model": {
            "model_type": "megatron_gpt", "num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16,
            "vocab_size": 50257, "intermediate_size": 4096, "hidden_act": "gelu", "gated": False, "normalization": "layer",
            "attention_bias": True, "mlp_bias": True, "qkv_bias": True, "qk_norm": False, "tie_word_embeddings": True,
            "hidden_dropout": 0.0, "attention_dropout": 0.1, "position_embedding": "learned", "max_position_embeddings": 2048,
        },
    }  # fmt: skip
    assert found.origins["seq_len"].key == "model.encoder_seq_length"
    assert found.origins["seq_len"].line == 13
    assert found.origins["sharding.recompute_granularity"].key == "model.activations_checkpoint_granularity"
    assert codes(found) == {"by-tokenizer"}


RUNS: list[tuple[str, dict[str, Any]]] = [
    (LLAMA, {
        "model.num_key_value_heads": 8, "model.gated": True, "model.normalization": "rms", "model.attention_bias": False,
        "model.vocab_size": 128256, "model.position_embedding": "rope", "model.tie_word_embeddings": False}),
    (GPT.replace("mcore_distributed_optim", "fused_adam"), {"sharding.distributed_optimizer": False}),
    (GPT.replace("fp8: false", "fp8: true").replace("fp8_e4m3: false", "fp8_e4m3: true"), {"sharding.fp8": "e4m3"}),
    (GPT.replace("fp8: false", "fp8: true\n  fp8_params: true"), {"sharding.fp8": "hybrid", "sharding.fp8_param": True}),
    (GPT.replace("precision: bf16", "precision: 16"), {"precision": "megatron-fp16"}),
    (GPT.replace("precision: bf16", "precision: 32"), {"precision": "fp32"}),
    (GPT.replace("selective", "full\n  activations_checkpoint_num_layers: 2"),
     {"checkpointing": "full", "sharding.recompute_method": "uniform", "sharding.recompute_num_layers": 2}),
    # without O2 weights are fp32, under autocast
    (GPT.replace("amp_O2: true", "amp_O2: false"),
     {"precision": "amp-bf16", "sharding": "ddp", "implementation": None, "attention": "flash"}),
    (GPT.replace("  fp8: false", "  fsdp: true\n  fsdp_sharding_strategy: grad\n  fsdp_grad_reduce_dtype: 32"),
     {"precision": "mixed-bf16", "sharding": {
         "strategy": "fsdp", "version": 1, "wrap": "layers", "sharding_strategy": "SHARD_GRAD_OP", "reduce_dtype": "fp32",
         "param_dtype": "bf16"}}),
    (LLAMA.replace("  fp8: false", "  num_moe_experts: 8\n  moe_router_topk: 2\n  expert_model_parallel_size: 4"),
     {"model.num_experts": 8, "model.num_experts_per_tok": 2, "parallel.expert": 4}),
    (LLAMA.replace("  fp8: false", "  mcore_customization_config: {parallel_attention: true, new_decoder_architecture: false}"),
     {"model.parallel_residual": "one"}),
    ("training:\n" + "".join(f"  {line}\n" for line in GPT.replace("size: ${m", "size: 1 #").splitlines()), {"gpus": 16}),
    (TUNING, {
        "model": "llama2-7b", "gpus": 4, "seq_len": 1024, "grad_accum": 8, "precision": {"recipe": "amp-bf16", "frozen": "fp32"},
        "lora": {"rank": 16, "alpha": 32, "dtype": "fp32",
                 "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}}),
    (TUNING.replace("peft_scheme: lora", "peft_scheme: null").replace("amp_O2: false", "amp_O2: true"),
     {"lora": None, "precision": "megatron-bf16", "implementation": "megatron"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_parameters_as_counted_by_hand() -> None:
    report = estimate_run(parse_run(read(GPT)))
    layer = 4 * (1024 * 1024 + 1024) + 2 * 4 * 1024 * 1024 + 4096 + 1024 + 4 * 1024
    assert report.model.parameters == 24 * layer + (50257 + 2048) * 1024 + 2 * 1024


def test_devices_that_are_not_counted_in_the_file() -> None:
    assert read(GPT.replace("devices: 8", "devices: -1"))["gpus"] == 4
    assert read(GPT, gpus=32)["grad_accum"] == 4


@pytest.mark.parametrize("text", ["model: x\n", "model: [1]\ntrainer: {}\n", "trainer: {devices: 1}\n"])
def test_a_file_without_a_model(text: str) -> None:
    with pytest.raises(RunInvalid, match="a mapping belongs here"):
        reading(text, "nemo")


def test_what_is_not_counted_is_named() -> None:
    assert "not-modelled" in codes(reading(GPT.replace("transformer_engine: true", "transformer_engine: false")))
    assert "moe_of_tomorrow" in str(reading(GPT.replace("  fp8: false", "  moe_of_tomorrow: 3")).warnings)


@pytest.mark.parametrize(("text", "told"), [
    (TUNING.replace("llama2_7b", "nobody_9b"), "--model"),
    (TUNING.replace("peft_scheme: lora", "peft_scheme: adapter"), "'adapter' is not modelled"),
    (GPT.replace("precision: bf16", "precision: bf17"), "bf17"),
    (GPT.replace("type: GPT2BPETokenizer", "type: null"), "--set model.vocab_size"),
    (GPT.replace("multiply:4", "power:4"), "not a number"),
    (GPT.replace("  num_layers: 24\n", ""), "does not describe its model"),
])  # fmt: skip
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1
