"""Configs that other projects publish: the run each of them means, key by key, and that it gives an estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from memcalc.configs import Asked, read
from memcalc.configs.documents import open_document
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run

REAL = Path(__file__).parent / "real"
GIVEN: dict[str, Any] = {"model": "llama-3.2-3b", "gpus": 8}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepspeed-z3-offload.json": ("deepspeed", {
        "precision": "mixed-bf16",
        "sharding": {
            "strategy": "zero3", "reduce_bucket_size": "auto", "sub_group_size": 10**9, "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 10**9,
            "stage3_max_reuse_distance": 10**9, "overlap_comm": False, "contiguous_gradients": True,
            "offload_optimizer": {"device": "cpu", "pin_memory": True}, "offload_param": {"device": "cpu", "pin_memory": True},
        },
    }),
    "deepspeed-bing-bert-lamb.json": ("deepspeed", {
        "precision": "mixed-fp16", "sharding": {"strategy": "zero0"}, "optimizer": "deepspeed-fused-lamb", "batch_size": 16,
        "grad_accum": 256,
    }),
    "accelerate-fsdp2.yaml": ("accelerate", {
        "precision": "mixed-bf16",
        "sharding": {"strategy": "fsdp", "version": 2, "reshard_after_forward": True, "wrap": "accelerate"},
    }),
    "accelerate-tp-hsdp.yaml": ("accelerate", {
        "precision": "mixed-bf16", "parallel": {"tensor": 2, "tp_plan": "auto"},  # as torch_native_parallelism's scripts
        "sharding": {"strategy": "hsdp", "version": 2, "reshard_after_forward": True, "wrap": "accelerate", "replicate": 2},
    }),
    "accelerate-deepspeed.yaml": ("accelerate", {
        "precision": "mixed-bf16", "sharding": {"strategy": "zero3"}, "grad_accum": 4,
    }),
    "trl-zephyr-qlora.yaml": ("trl", {
        "precision": "bf16-autocast", "batch_size": 4, "grad_accum": 2, "seq_len": 2048, "optimizer": "adamw_torch_fused",
        "checkpointing": {"mode": "full"}, "attention": "flash", "quantize": "nf4", "loss": "fused-log-probs",
        "lora": {"rank": 16, "alpha": 16, "dropout": 0.05, "dtype": "bf16",
                 "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    }),
    "trl-smollm3-apo.yaml": ("trl", {
        "precision": "bf16-autocast", "batch_size": 2, "grad_accum": 2, "seq_len": 24576, "optimizer": "adamw_torch_fused",
        "checkpointing": {"mode": "full", "reentrant": True}, "attention": "flash", "implementation": "hf-liger",
        "loss": "fused-log-probs", "packing": True, "companions": [{"role": "reference", "model": "same", "dtype": "bf16"}],
    }),
    "peft-dora.json": ("peft", {
        "lora": {"method": "lora", "rank": 32, "alpha": 64, "dropout": 0.0, "bias": "none", "dora": True, "rslora": False,
                 "lora_bias": False, "task": "CAUSAL_LM"},
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_published_config_means_this_run(name: str) -> None:
    form, expected = RUNS[name]
    found = read(open_document(REAL / name), "", Asked(GIVEN))
    assert found is not None
    assert found.format == form
    assert found.run == expected
    assert "keys-not-read" not in {note.code for note in found.warnings}


@pytest.mark.parametrize("name", RUNS)
def test_it_gives_an_estimate(name: str) -> None:
    found = read(open_document(REAL / name), "", Asked(GIVEN))
    assert found is not None
    report = estimate_run(parse_run({**GIVEN, **found.run}))
    assert report.memory.total > report.memory.persistent >= 0


def test_every_file_says_where_it_comes_from() -> None:
    known = yaml.safe_load((REAL / "INDEX.yaml").read_text("utf-8"))
    assert set(known) == set(RUNS) == {path.name for path in REAL.iterdir()} - {"INDEX.yaml"}
