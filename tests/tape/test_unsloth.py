"""Unsloth's functions over layers with LoRA: what a layer keeps, worked out by hand (unsloth, kernels/fast_lora.py)."""

from __future__ import annotations

from typing import Any

from memcalc import estimate

BATCH, SEQ, HIDDEN, WIDTH, HEADS, KV, DIM, VOCAB = 2, 256, 768, 2048, 12, 4, 64, 4096
CONFIG = {"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_attention_heads": HEADS,
          "num_key_value_heads": KV, "head_dim": DIM, "vocab_size": VOCAB, "tie_word_embeddings": False}  # fmt: skip
U = BATCH * SEQ * HIDDEN * 2
ROWS = BATCH * SEQ * 4  # fp32, one number a row
SCORES = BATCH * HEADS * SEQ * 4  # log-sum-exp
MLP = BATCH * SEQ * WIDTH * 2
RUN: dict[str, Any] = {
    "precision": "bf16",
    "batch_size": BATCH,
    "seq_len": SEQ,
    "lora": {"rank": 8, "targets": "all-linear"},
}


def layer(**over: Any) -> int:
    few, more = (
        estimate({**RUN, "implementation": "unsloth", "model": {**CONFIG, "num_hidden_layers": count}, **over}).memory
        for count in (8, 9)
    )
    return more.components.activations - few.components.activations


def test_a_layer_keeps_inputs_gate_and_up() -> None:
    norms = 2 * (2 * U + ROWS)  # input and output of each, the latter what LoRA's functions keep
    attention = 2 * U + 2 * U * KV // HEADS + SCORES  # q, k, v, the output: what the output projection keeps
    assert layer() == norms + attention + 2 * MLP


def test_with_dropout_adapters_are_pefts() -> None:
    assert layer(lora={"rank": 8, "targets": "all-linear", "dropout": 0.1}) > 1.3 * layer()


def test_a_packed_base_changes_nothing_of_it() -> None:
    assert layer(quantize="nf4") == layer()


def test_a_feed_forward_block_without_adapters_keeps_less() -> None:
    some = layer(lora={"rank": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]})
    assert some == layer() - U  # the input of gate and up, which nothing asks for


def test_checkpoints_that_offload_are_its_own() -> None:
    """Unsloth_Offloaded_Gradient_Checkpointer is a function with a backward pass in its own, whatever `reentrant` says."""
    own, said = (
        estimate(
            {**RUN, "implementation": "unsloth", "model": {**CONFIG, "num_hidden_layers": 8}, "checkpointing": how}
        )
        for how in ({"mode": "full", "offload": True}, {"mode": "full", "offload": True, "reentrant": True})
    )
    assert own.memory == said.memory
    assert any("Unsloth's checkpointing" in note.message for note in own.assumptions)
