"""FSDP2 against torch's own tracker: every kind of buffer to the byte, peaks within what its fp32 loss scalars round to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate

if TYPE_CHECKING:
    from memcalc.report import Memory

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("memtracker.json").read_text("utf-8"))["cases"]
LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
PARAMETERS = {32: 291, 8: 75, 4: 39}  # by layers: each has a step counter of 4 bytes, which memcalc counts on the host


def memory_of(case: dict[str, Any], *, keep_outputs: bool) -> Memory:
    return estimate({
        "model": {**LLAMA_7B, "num_hidden_layers": case["layers"]}, "precision": case["precision"],
        "optimizer": {"name": "adamw", "implementation": "foreach"}, "batch_size": 1, "seq_len": 1024, "gpus": 8,
        "checkpointing": case["checkpointing"], "sharding": case["sharding"], "keep_outputs": keep_outputs,
    }).memory  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_persists_is_exact(case: dict[str, Any]) -> None:
    held = memory_of(case, keep_outputs=True).components
    assert held.weights == case["sharded_parameters"]
    assert held.gradients == case["sharded_gradients"]
    assert held.optimizer_states == case["states"] - 4 * PARAMETERS[case["layers"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_peaks(case: dict[str, Any]) -> None:
    forward = memory_of(case, keep_outputs=False).phases.forward
    backward = memory_of(case, keep_outputs=True).phases.backward
    assert forward == pytest.approx(case["forward"], rel=2e-3)
    assert backward == pytest.approx(case["backward"], rel=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_gathered_parameters_and_buffers_are_exact(case: dict[str, Any]) -> None:
    run = {
        "model": {**LLAMA_7B, "num_hidden_layers": case["layers"]}, "precision": case["precision"],
        "optimizer": {"name": "adamw", "implementation": "fused"}, "batch_size": 1, "seq_len": 1024, "gpus": 8,
        "checkpointing": case["checkpointing"], "sharding": case["sharding"], "keep_outputs": True,
    }  # fmt: skip
    memory = estimate(run).memory
    assert memory.peak_phase == "backward"
    assert memory.at_peak.buffers == sum(case["backward_buffers"].values())
    assert memory.at_peak.weights == case["sharded_parameters"]
