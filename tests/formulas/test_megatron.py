"""Megatron-LM's theoretical memory, held to numbers that its own program printed (tests/formulas/megatron.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memcalc.formulas.megatron import Split, activations, activations_without_sequence, shape_of, weights_and_optimizer
from memcalc.pipeline import estimate, load
from memcalc.resolve import resolve

RECORDED = json.loads((Path(__file__).parent / "megatron.json").read_text())
GPT3 = {"model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "vocab_size": 51200, "n_positions": 4096,
        "hidden_size": 12288}  # fmt: skip
MODELS: dict[str, Any] = {
    "llama2-7b": "llama-2-7b", "llama2-70b": "llama-2-70b", "llama3-8b": "llama-3-8b", "mixtral-8x7b": "mixtral-8x7b",
    "gpt3-175b": GPT3,
}  # fmt: skip
SEQ, BATCH, MICRO = 4096, 1, 16


@pytest.mark.parametrize("row", RECORDED["rows"], ids=lambda row: "-".join(map(str, row[:8])))
def test_recorded(row: list[Any]) -> None:
    model, tensor, pipeline, data, virtual, expert, expert_tensor, distributed, kept, selective, without = row
    how = Split(tensor=tensor, pipeline=pipeline, data=data, expert=expert, expert_tensor=expert_tensor,
                chunks=virtual, distributed=distributed)  # fmt: skip
    plan = resolve(load({"model": MODELS[model], "seq_len": SEQ}).run)
    shape = shape_of(plan, 128 * tensor)
    assert weights_and_optimizer(shape, how) == kept
    assert activations(shape, how, BATCH, SEQ, MICRO) == selective
    assert activations_without_sequence(shape, how, BATCH, SEQ, MICRO) == without


def test_beside_the_answer() -> None:
    run = {"model": "llama-2-7b", "seq_len": SEQ, "gpus": 8, "grad_accum": MICRO, "sharding": "megatron"}
    part = estimate(run, "megatron").formula
    assert part
    assert part.terms == {"weights_and_optimizer": 50_538_117_120, "activations": round(19_494_425_395.2)}
    assert part.gpu_bytes == sum(part.terms.values())
