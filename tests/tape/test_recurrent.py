"""What recurrent layers keep without kernels, by the formulas of their loops."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate

SMALL = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 2}
MAMBA = {**SMALL, "model_type": "mamba", "state_size": 16}


def activations(model: dict[str, Any], seq: int, **more: Any) -> int:
    run = {"model": model, "precision": "bf16", "batch_size": 1, "seq_len": seq, "optimizer": "none", **more}
    return estimate(run).memory.components.activations


def test_mamba_keeps_states_of_every_token() -> None:
    """Of each token: the decay, B and the state in fp32, the state once more in bf16 (mamba_selective_scan)."""
    inner, state, layers = 256, 16, 2
    states = layers * 64 * inner * state * (4 + 4 + 4 + 2)
    per_token = (activations(MAMBA, 128) - activations(MAMBA, 64)) / 64
    assert states / 64 < per_token < 1.3 * states / 64


def test_a_checkpointed_mamba_keeps_the_inputs_of_its_layers() -> None:
    assert activations(MAMBA, 256, checkpointing="full") < activations(MAMBA, 256) / 20


@pytest.mark.parametrize("seq", [64, 65, 127])
def test_chunks_are_padded_to_whole_ones(seq: int) -> None:
    """Qwen3.5's gated delta nets work in chunks of 64 tokens: 65 tokens hold what 128 do, but for their own rows."""
    model = {
        **SMALL, "model_type": "qwen3_5_text", "layer_types": ["linear_attention"] * 2, "intermediate_size": 256,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    }  # fmt: skip
    whole, half = activations(model, 128), activations(model, 64)
    held = activations(model, seq)
    assert half <= held <= whole
    assert (held > 1.4 * half) == (seq > 64)


def test_recurrences_say_that_no_kernel_runs_them() -> None:
    report = estimate({"model": MAMBA, "seq_len": 64})
    assert "no-kernels" in {note.code for note in report.assumptions}
    assert "no-kernels" not in {note.code for note in estimate({"model": "gpt2", "seq_len": 64}).assumptions}
