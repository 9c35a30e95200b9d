"""Megatron-LM's GPTModel: with the switches of a model that is known, it is that model, tensor for tensor."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.errors import RunInvalid
from memcalc.models import load_model
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run

LLAMA: dict[str, Any] = {
    "model_type": "megatron_gpt", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "gated": True, "normalization": "rms", "position_embedding": "rope",
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
MIXTRAL = {**LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "num_experts": 8}
QWEN3 = {**LLAMA, "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
         "num_key_value_heads": 8, "qk_norm": True, "tie_word_embeddings": True}  # fmt: skip
QWEN2 = {**LLAMA, "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "qkv_bias": True}  # fmt: skip
GPT2 = {"model_type": "megatron_gpt", "vocab_size": 50257, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 1024}  # fmt: skip
PYTHIA = {**GPT2, "vocab_size": 50304, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6,
          "num_attention_heads": 8, "position_embedding": "rope", "tie_word_embeddings": False,
          "parallel_residual": "two"}  # fmt: skip
DEEPSEEK = {
    **LLAMA, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
    "shared_expert_intermediate_size": 2048, "moe_layers": [0] * 3 + [1] * 58, "router_correction": True,
    "kv_lora_rank": 512, "q_lora_rank": 1536,
}  # fmt: skip
SAME = {"llama-7b": LLAMA, "mixtral-8x7b": MIXTRAL, "qwen3-4b": QWEN3, "qwen2.5-7b": QWEN2, "gpt2": GPT2, "pythia-70m": PYTHIA,
        "deepseek-v3": DEEPSEEK}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_it_is_the_model_that_its_switches_describe(name: str) -> None:
    assert build("megatron_gpt", SAME[name]).parameters == load_model(name).parameters


@pytest.mark.parametrize("name", ["llama-7b", "qwen3-4b"])
def test_a_step_of_it_is_that_models(name: str) -> None:
    run = {
        "implementation": "megatron",
        "precision": "megatron-bf16",
        "gpus": 4,
        "parallel": {"tensor": 2},
        "seq_len": 1024,
    }
    mine, theirs = (estimate_run(parse_run({**run, "model": model})).memory.total for model in (SAME[name], name))
    assert mine == theirs


def test_dropout_keeps_its_masks() -> None:
    run = {"implementation": "megatron", "precision": "megatron-bf16", "seq_len": 1024}
    plain, dropped = (
        estimate_run(parse_run({**run, "model": {**GPT2, "hidden_dropout": p}})).memory.total for p in (0.0, 0.1)
    )
    assert dropped > plain


def test_layers_that_are_not_as_many_as_listed() -> None:
    with pytest.raises(RunInvalid, match="lists 4 layers of 61"):
        build("megatron_gpt", {**DEEPSEEK, "moe_layers": [0, 1, 1, 1]})
