"""Laws of every data-parallel strategy: what sharing can and can't do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc import estimate

if TYPE_CHECKING:
    from memcalc.report import Memory

SHARED: list[Any] = [
    {"strategy": "fsdp"},
    {"strategy": "fsdp", "reshard_after_forward": False},
    {"strategy": "fsdp", "wrap": "accelerate", "reduce_dtype": "fp32"},
    {"strategy": "fsdp", "version": 1},
    {"strategy": "fsdp", "version": 1, "use_orig_params": True, "sharding_strategy": "SHARD_GRAD_OP"},
]
WHOLE: list[Any] = [
    {"strategy": "ddp"},
    {"strategy": "ddp", "gradient_as_bucket_view": True},
    {"strategy": "fsdp", "version": 1, "sharding_strategy": "NO_SHARD"},
]
TINY = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 1001, "num_hidden_layers": 5, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {"precision": "bf16"},
    {"precision": "fp32", "checkpointing": "full"},
    {"precision": "bf16", "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}},
    {"precision": "bf16", "grad_accum": 4},
]


def memory_of(run: dict[str, Any], sharding: Any, gpus: int) -> Memory:
    return estimate({"model": TINY, "seq_len": 64, **run, "sharding": sharding, "gpus": gpus}).memory


@pytest.mark.parametrize("sharding", SHARED, ids=str)
@pytest.mark.parametrize("run", RUNS, ids=str)
@settings(max_examples=3, deadline=None)
@given(gpus=st.integers(2, 300))
def test_a_shard_is_a_part_and_parts_make_the_whole(run: dict[str, Any], sharding: Any, gpus: int) -> None:
    whole, shard = memory_of(run, "ddp", gpus), memory_of(run, sharding, gpus)
    for name in ("weights", "gradients", "optimizer_states"):
        part, all_of_it = getattr(shard.components, name), getattr(whole.components, name)
        assert part <= all_of_it <= part * gpus
    more = memory_of(run, sharding, 2 * gpus)
    assert more.persistent <= shard.persistent


@pytest.mark.parametrize("sharding", [*SHARED, *WHOLE], ids=str)
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_one_rank_changes_nothing(run: dict[str, Any], sharding: Any) -> None:
    assert memory_of(run, sharding, 1) == memory_of(run, "none", 1)


@pytest.mark.parametrize("sharding", [*SHARED, *WHOLE], ids=str)
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_peak_is_made_of_its_parts(run: dict[str, Any], sharding: Any) -> None:
    memory = memory_of(run, sharding, 4)
    assert sum(vars(memory.at_peak).values()) == memory.peak_allocated == max(vars(memory.phases).values())
    assert min(vars(memory.at_peak).values()) >= 0
    assert memory.reserved >= memory.peak_allocated
    assert memory.at_peak.buffers <= memory.components.buffers


@settings(max_examples=20, deadline=None)
@given(shards=st.integers(2, 16), replicas=st.integers(1, 8))
def test_replicas_hold_what_a_smaller_group_holds(shards: int, replicas: int) -> None:
    hybrid = memory_of({"precision": "bf16"}, {"strategy": "hsdp", "replicate": replicas}, shards * replicas)
    plain = memory_of({"precision": "bf16"}, "fsdp", shards)
    assert hybrid.components == plain.components
    assert hybrid.peak_allocated == plain.peak_allocated


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp"])
def test_reentrant_checkpoints_are_followed(strategy: str) -> None:
    """The gradient of a layer's input is no parameter's: no strategy takes it away. The last of them is held a bit longer."""
    found = [
        estimate({"model": "gpt2", "precision": "bf16", "seq_len": 256, "gpus": 4, "sharding": strategy,
                  "checkpointing": {"mode": "full", "reentrant": reentrant}}) for reentrant in (False, True)
    ]  # fmt: skip
    assert not [note for report in found for note in report.warnings if note.code == "tape-failed"]
    peaks = [report.memory.peak_allocated for report in found]
    assert abs(peaks[1] - peaks[0]) < 0.02 * peaks[0]
