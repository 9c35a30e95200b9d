"""Selective and full recomputation in Megatron-LM: what each module's stops being kept."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.pipeline import estimate

MIB = 2**20
DEEPSEEK = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 160, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "vocab_size": 102401, "num_hidden_layers": 4, "first_k_dense_replace": 1,
}  # fmt: skip


def activations(**options: Any) -> float:
    """MiB of activations of 4096 tokens."""
    run = {
        "model": DEEPSEEK, "batch_size": 1, "seq_len": 4096, "gpus": 8, "precision": "megatron-bf16", "gpu": "h200",
        "implementation": "megatron", "parallel": {"expert": 4},
        "sharding": {"strategy": "megatron", "moe_permute_fusion": True, **options},
    }  # fmt: skip
    return estimate(run).memory.components.activations / MIB


def selective(*modules: str) -> float:
    """With these modules recomputed."""
    return activations(recompute_granularity="selective", recompute_modules=list(modules))


@pytest.mark.parametrize(
    ("module", "saved"),
    [
        ("core_attn", 4 * 2),  # a log-sum-exp in fp32 for each of 128 heads
        ("layernorm", 7 * 40),  # of a dense layer's second one the linear's own: the norm is fused
        ("mla_up_proj", 4 * (192 + 192 + 128) + 4 * 16),  # q, k, v, and the latents' norms, which are fused
        ("moe_act", 3 * 72),
        ("mlp", 40 + 4096 * 12288 * 3 * 2 / MIB),
        ("shared_experts", 3 * 4096 * 3072 * 3 * 2 / MIB),
    ],
)
def test_what_a_module_no_longer_keeps(module: str, saved: float) -> None:
    assert selective() - selective(module) == pytest.approx(saved, abs=1.5 + 0.001 * saved)


def test_modules_add_up() -> None:
    each = ("layernorm", "mla_up_proj", "moe_act")
    apart = sum(selective() - selective(module) for module in each)
    assert selective() - selective(*each) == pytest.approx(apart, abs=1.5)


def test_full_recomputation_keeps_less_the_more_layers_it_takes() -> None:
    block = [
        activations(recompute_granularity="full", recompute_method="block", recompute_num_layers=n) for n in range(1, 5)
    ]
    assert block == sorted(block, reverse=True)
    assert block[0] < activations()
