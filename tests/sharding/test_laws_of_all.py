"""The same laws over every strategy, precision and kind of model at once, mixtures, tied heads and frozen parts among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc import estimate

if TYPE_CHECKING:
    from memcalc.report import Memory

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 1001, "num_hidden_layers": 5, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "dense": LLAMA,
    "tied": {**LLAMA, "tie_word_embeddings": True},
    "mixture": {**LLAMA, "model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 3},
    "shared experts": {
        **LLAMA, "model_type": "qwen2_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 64, "num_hidden_layers": 3,
    },
    "encoder and decoder": {
        "model_type": "t5", "vocab_size": 900, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
        "num_decoder_layers": 3, "num_heads": 4, "is_encoder_decoder": True,
    },
    "state space": {
        "model_type": "mamba2", "vocab_size": 1000, "hidden_size": 64, "state_size": 16, "num_hidden_layers": 3,
        "num_heads": 8, "head_dim": 16, "n_groups": 1, "tie_word_embeddings": True,
    },
}  # fmt: skip
LEARNING: dict[str, dict[str, Any]] = {
    "all": {},
    "lora": {"lora": {"rank": 8, "targets": "all-linear"}},
    "head": {"train": ["*.norm*.weight", "*layer_norm*.weight"]},
}
SHARED: dict[str, dict[str, Any]] = {
    "zero1": {"strategy": "zero1"},
    "zero1, fp32 gradients": {"strategy": "zero1", "grad_accum_dtype": "fp32"},
    "zero2": {"strategy": "zero2", "overlap_comm": True},
    "zero3": {"strategy": "zero3"},
    "zero3, on the host": {"strategy": "zero3", "offload_optimizer": {"device": "cpu"}},
    "fsdp": {"strategy": "fsdp", "reduce_dtype": "fp32"},
    "fsdp, kept": {"strategy": "fsdp", "reshard_after_forward": False, "wrap": "accelerate"},
    "fsdp, one unit": {"strategy": "fsdp", "wrap": "none"},
    "fsdp, fp8": {"strategy": "fsdp", "enable_fsdp_float8_all_gather": True},
    "fsdp1": {"strategy": "fsdp", "version": 1, "use_orig_params": True},
    "fsdp1, in advance": {"strategy": "fsdp", "version": 1, "use_orig_params": True, "forward_prefetch": True},
    "fsdp1, grad op": {"strategy": "fsdp", "version": 1, "use_orig_params": True, "sharding_strategy": "SHARD_GRAD_OP"},
}
WHOLE: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "ddp, views": {"strategy": "ddp", "gradient_as_bucket_view": True},
    "fsdp1, whole": {"strategy": "fsdp", "version": 1, "use_orig_params": True, "sharding_strategy": "NO_SHARD"},
}
# where more is kept than there would be on one GPU: frozen parameters in the dtype of those that learn, and in FSDP1 the
# gradient of the whole flat parameter that they are in
WIDENING = {
    "head": ("fsdp", "fsdp, kept", "fsdp, one unit", "fsdp, fp8", "fsdp1", "fsdp1, in advance", "fsdp1, grad op")
}
PARTS = ("weights", "master_weights", "gradients", "optimizer_states")

models = st.sampled_from(sorted(MODELS))
learning = st.sampled_from(sorted(LEARNING))
precisions = st.sampled_from(["bf16", "fp32", "mixed-bf16"])


def memory_of(model: str, learns: str, sharding: Any, gpus: int, **run: Any) -> Memory:
    words: dict[str, Any] = {"target_len": 32} if model == "encoder and decoder" else {}
    if learns == "lora" and model == "state space":  # whose kernels read the other projection's weight themselves
        words["lora"] = {"rank": 8, "targets": ["in_proj"]}
    asked = {
        "model": MODELS[model],
        "seq_len": 64,
        "sharding": sharding,
        "gpus": gpus,
        **LEARNING[learns],
        **words,
        **run,
    }
    return estimate(asked).memory


@settings(max_examples=25, deadline=None)
@given(models, learning, st.sampled_from(sorted(SHARED)), st.sampled_from(["fp32", "mixed-bf16"]), st.integers(2, 96))
def test_parts_make_the_whole_and_more_ranks_have_smaller_ones(
    model: str, learns: str, name: str, precision: str, gpus: int
) -> None:
    found = [memory_of(model, learns, SHARED[name], ranks, precision=precision) for ranks in (1, gpus, 2 * gpus)]
    alone, shard, more = (sum(getattr(memory.components, part) for part in PARTS) for memory in found)
    host = [memory.host.pinned + memory.host.pageable for memory in found]
    assert (shard + host[1]) * gpus >= alone
    padding = (
        16 * 2 * 2 * gpus if name.startswith("zero") else 0
    )  # to a multiple of twice the ranks, as wide as it gets
    assert more <= shard + padding
    if name not in WIDENING.get(learns, ()):
        assert shard <= alone + host[0] + padding


@settings(max_examples=20, deadline=None)
@given(models, learning, st.sampled_from(sorted({*SHARED, *WHOLE} - {"zero3, on the host"})), precisions)
def test_over_one_rank_nothing_changes(model: str, learns: str, name: str, precision: str) -> None:
    one, none = (memory_of(model, learns, how, 1, precision=precision) for how in ({**SHARED, **WHOLE}[name], "none"))
    assert one == none


@settings(max_examples=25, deadline=None)
@given(models, learning, st.sampled_from(sorted({**SHARED, **WHOLE})), precisions, st.integers(2, 40), st.integers(1, 3),
       st.sampled_from(["none", "full"]))  # fmt: skip
def test_a_peak_is_made_of_its_parts(
    model: str, learns: str, name: str, precision: str, gpus: int, steps: int, checkpointing: str
) -> None:
    run = {"precision": precision, "grad_accum": steps, "checkpointing": checkpointing}
    memory = memory_of(model, learns, {**SHARED, **WHOLE}[name], gpus, **run)
    assert sum(vars(memory.at_peak).values()) == memory.peak_allocated == max(vars(memory.phases).values())
    assert min(vars(memory.at_peak).values()) >= 0
    assert memory.reserved >= memory.peak_allocated


DIVIDED: list[dict[str, Any]] = [
    {"tensor": 2}, {"pipeline": 3}, {"tensor": 2, "pipeline": 3}, {"context": 2}, {"tensor": 2, "sequence": True},
]  # fmt: skip


@pytest.mark.parametrize("parallel", DIVIDED, ids=str)
@pytest.mark.parametrize("strategy", ["megatron", "fsdp", "zero1"])
@pytest.mark.parametrize("model", ["dense", "mixture"])
def test_ranks_of_a_divided_model_hold_no_more_than_all_of_it(
    model: str, strategy: str, parallel: dict[str, Any]
) -> None:
    """And together at least all: with the stages' tables and what every tensor-parallel rank holds whole."""
    wide = {**MODELS[model], "vocab_size": 1024, "num_hidden_layers": 6, "hidden_size": 192, "num_local_experts": 12}
    run: dict[str, Any] = {
        "model": wide,
        "seq_len": 64,
        "sharding": strategy,
        "gpus": 12,
        "precision": "mixed-bf16",
        "grad_accum": 6,
    }
    whole, part = (estimate({**run, "parallel": degrees}).memory.components for degrees in ({}, parallel))
    ways = parallel.get("tensor", 1) * parallel.get("pipeline", 1)
    for name in {"megatron": PARTS[:1], "zero1": ("weights", "master_weights", "optimizer_states"), "fsdp": PARTS}[
        strategy
    ]:
        all_of_it, own = getattr(whole, name), getattr(part, name)
        shared = strategy == "fsdp" or (strategy == "zero1" and name not in ("weights", "gradients"))
        assert own * (1 if shared else ways) >= 0.99 * all_of_it
        assert own <= (1.6 if shared else 1.01) * all_of_it


@pytest.mark.parametrize("strategy", ["fsdp", "zero1"])
@pytest.mark.parametrize("model", ["dense", "mixture"])
def test_and_so_by_a_plan_of_transformers_own(model: str, strategy: str) -> None:
    test_ranks_of_a_divided_model_hold_no_more_than_all_of_it(model, strategy, {"tensor": 2, "tp_plan": "auto"})
