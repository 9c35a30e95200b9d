"""GPT-NeoX's yml. Expectations: megatron/neox_arguments, megatron/model/transformer.py and megatron/tokenizer of GPT-NeoX."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.configs import detect
from memcalc.errors import RunInvalid
from memcalc.models import load_model
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, document, parts, reading

PYTHIA = """\
{
  "pipe-parallel-size": 1,
  "model-parallel-size": 1,
  "num-layers": 6,
  "hidden-size": 512,
  "num-attention-heads": 8,
  "seq-length": 2048,
  "max-position-embeddings": 2048,
  "pos-emb": "rotary",
  "rotary-pct": 0.25,
  "no-weight-tying": true,
  "gpt-j-residual": true,
  "output-layer-parallelism": "column",
  "attention-config": [[["flash"], 6]],
  "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95],}},
  "zero_optimization": {"stage": 1, "allgather_partitions": True, "reduce_bucket_size": 500000000, "overlap_comm": True,
                        "cpu_offload": False},
  "train_micro_batch_size_per_gpu": 32,
  "fp16": {"fp16": true, "enabled": true, "loss_scale": 0},
  "checkpoint-activations": true,
  "checkpoint-num-layers": 1,
  "partition-activations": true,
  "hidden-dropout": 0, "attention-dropout": 0, "weight-decay": 0.1, "num-workers": 1,
  "vocab-file": "/data/20B_tokenizer.json", "tokenizer-type": "HFTokenizer",
}
"""
LLAMA = """\
pipe_parallel_size: 2
model_parallel_size: 2
num_layers: 40
hidden_size: 5120
intermediate_size: 41472
num_attention_heads: 40
seq_length: 4096
max_position_embeddings: 4096
pos_emb: rotary
rotary_pct: 1
no_weight_tying: true
norm: rmsnorm
use_bias_in_norms: false
use_bias_in_attn_linear: false
use_bias_in_mlp: false
activation: swiglu
mlp_multiple_of: 256
tokenizer_type: SPMTokenizer
precision: bfloat16
data_types: {grad_accum_dtype: fp32}
zero_optimization: {stage: 1}
train_batch_size: 64
train_micro_batch_size_per_gpu: 2
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **flags).run)


def test_a_whole_file_with_dashes_and_trailing_commas() -> None:
    found = reading(PYTHIA, gpus=8)
    assert found.format == "gpt-neox"
    assert found.run == {
        "model": {
            "model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
            "intermediate_size": 2048, "hidden_act": "gelu", "max_position_embeddings": 2048, "hidden_dropout": 0.0,
            "attention_dropout": 0.0, "rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False,
        },
        "seq_len": 2048, "precision": "mixed-fp16", "attention": "flash", "batch_size": 32, "grad_accum": 1,
        "checkpointing": "full", "optimizer": "apex-fused-adam",
        "sharding": {"strategy": "zero1", "reduce_bucket_size": 500000000, "overlap_comm": True},
    }  # fmt: skip
    assert (found.origins["seq_len"].key, found.origins["seq_len"].line) == ("seq_length", 7)
    assert codes(found) == {"by-tokenizer", "modules"}


RUNS: list[tuple[str, dict[str, Any]]] = [
    # rows are padded to 128 x the tensor degree
    (PYTHIA.replace('"model-parallel-size": 1', '"model-parallel-size": 2'),
     {"model.vocab_size": 50432, "parallel": {"tensor": 2}}),
    (PYTHIA.replace("HFTokenizer", "GPT2BPETokenizer").replace('"vocab-file": "/data/20B_tokenizer.json",', ""),
     {"model.vocab_size": 50304}),
    (PYTHIA.replace('"vocab-file"', '"make_vocab_size_divisible_by": 1, "vocab-file"'), {"model.vocab_size": 50277}),
    (PYTHIA.replace('"attention-config": [[["flash"], 6]],', ""), {"attention": "eager"}),
    (PYTHIA.replace('"stage": 1', '"stage": 0'), {"sharding": {"strategy": "zero0"}}),
    (PYTHIA.replace('"cpu_offload": False', '"cpu_offload": True'),
     {"sharding.offload_optimizer": {"device": "cpu"}, "optimizer": "deepspeed-cpu-adam"}),
    (PYTHIA.replace('"optimizer"', '"use_bnb_optimizer": true, "optimizer"'), {"optimizer": "adamw-8bit"}),
    (PYTHIA.replace('"checkpoint-activations": true', '"checkpoint-activations": false'), {"checkpointing": "none"}),
    (PYTHIA.replace('"fp16": true, "enabled": true', '"enabled": false'), {"precision": "fp32", "attention": "sdpa"}),
    (PYTHIA.replace('"gpt-j-residual": true', '"gpt_j_tied": true'),
     {"model.model_type": "megatron_gpt", "model.parallel_residual": "one"}),
    (PYTHIA.replace('"rotary"', '"learned"'),
     {"model.model_type": "megatron_gpt", "model.position_embedding": "learned", "model.parallel_residual": "two"}),
    (PYTHIA.replace('"rotary"', '"alibi"'), {"model.position_embedding": "alibi"}),
    (PYTHIA.replace('[["flash"], 6]', '[["mamba"], 6]').replace('"no-weight-tying": true,', ""), {
        "model": {"model_type": "mamba", "vocab_size": 50304, "hidden_size": 512, "num_hidden_layers": 6,
                  "tie_word_embeddings": True},
        "attention": None}),
    (LLAMA, {
        "gpus": None, "parallel": {"tensor": 2, "pipeline": 2}, "precision": "mixed-bf16-fp32-grads", "batch_size": 2,
        "grad_accum": 16, "model.intermediate_size": 13824, "model.normalization": "rms", "model.gated": True,
        "model.attention_bias": False, "model.vocab_size": 32000, "model.model_type": "megatron_gpt", "attention": "eager"}),
    # a width that can't be halved is that of mlp_type: llama
    (LLAMA.replace("41472", "14336").replace("mlp_multiple_of: 256", "num_kv_heads: 8"),
     {"model.intermediate_size": 14336, "model.num_key_value_heads": 8}),
    (LLAMA.replace("intermediate_size: 41472\n", "").replace("activation: swiglu", "mlp_type: llama"),
     {"model.intermediate_size": 13824, "model.gated": True}),
    (LLAMA.replace("train_micro_batch_size_per_gpu: 2", "gradient_accumulation_steps: 4"), {"batch_size": 8, "grad_accum": 4}),
    (LLAMA + "num_gpus: 8\nnum_nodes: 2\n", {"grad_accum": 16}),
    (PYTHIA.replace('"hidden-size"', '"moe_num_experts": 4, "moe_expert_interval": 2, "hidden-size"'),
     {"model.num_experts": 4, "model.num_experts_per_tok": 1, "model.moe_layers": [1, 0, 1, 0, 1, 0]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text, gpus=8), expected) == expected


def test_gpus_as_the_launcher_or_the_degrees_have_them() -> None:
    assert read(LLAMA)["gpus"] == 4
    assert read(LLAMA + "num_gpus: 8\nnum_nodes: 2\n")["gpus"] == 16


def test_it_gives_an_estimate() -> None:
    pythia, llama = (estimate_run(parse_run({**read(text, gpus=8), "gpus": 8})) for text in (PYTHIA, LLAMA))
    assert pythia.model.parameters == load_model("pythia-70m").parameters
    assert llama.model.parameters == load_model("llama-2-13b").parameters


def test_a_file_with_a_section_of_zero_is_not_deepspeeds() -> None:
    assert detect(document(PYTHIA)) == "gpt-neox"


def test_what_is_not_counted_is_named() -> None:
    divided = reading(PYTHIA.replace('"model-parallel-size": 1', '"model-parallel-size": 2'), gpus=8)
    assert "not-modelled" in codes(divided)
    assert "needs-16-bits" in codes(reading(PYTHIA.replace('"enabled": true', '"enabled": false'), gpus=8))
    assert "read-as" in codes(reading(LLAMA.replace("41472", "14336").replace("mlp_multiple_of: 256\n", ""), gpus=8))
    alone = reading(LLAMA.replace("train_batch_size: 64\ntrain_micro_batch_size_per_gpu: 2\n", ""), gpus=8)
    assert "micro-batch-not-in-config" in codes(alone)
    assert "num_of_tomorrow" in str(reading(LLAMA + "num_of_tomorrow: 3\n", gpus=8).warnings)


@pytest.mark.parametrize(("text", "told"), [
    (PYTHIA.replace('[["flash"], 6]', '[["rwkv"], 6]'), "rwkv are not modelled"),
    (LLAMA.replace("bfloat16", "fp8"), "'fp8' is none of"),
    (LLAMA.replace("swiglu", "snake"), "'snake' is not known"),
    (LLAMA.replace("num_layers: 40\n", ""), "one of several"),
    (LLAMA.replace("stage: 1", "stage: 5"), "no stage of ZeRO"),
])  # fmt: skip
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text, gpus=8)
    assert len(caught.value.faults) == 1
