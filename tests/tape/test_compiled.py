"""Layers of torchtune and torchtitan, as they are and compiled: what one keeps, worked out by hand.

The compiled layer's list is what torch 2.13's partitioner cut (torch.compile of a layer of torchtune's, backend
aot_eager_decomp_partition, saved_tensors_hooks), tensor by tensor.
"""

from __future__ import annotations

import pytest

from memcalc import estimate

BATCH, SEQ, HIDDEN, WIDTH, HEADS, KV, DIM, VOCAB = 2, 256, 768, 2048, 12, 4, 64, 4096
CONFIG = {"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_attention_heads": HEADS,
          "num_key_value_heads": KV, "head_dim": DIM, "vocab_size": VOCAB, "tie_word_embeddings": False}  # fmt: skip
U = BATCH * SEQ * HIDDEN * 2
ROWS = BATCH * SEQ * 4  # fp32, one number a row
SCORES = BATCH * HEADS * SEQ * 4  # log-sum-exp
MLP = BATCH * SEQ * WIDTH * 2


def kept(implementation: str, layers: int, loss: str = "standard") -> int:
    run = {"model": {**CONFIG, "num_hidden_layers": layers}, "precision": "bf16", "batch_size": BATCH, "seq_len": SEQ,
           "implementation": implementation, "loss": loss}  # fmt: skip
    return estimate(run).memory.components.activations


def layer(implementation: str) -> int:
    return kept(implementation, 9) - kept(implementation, 8)


@pytest.mark.parametrize("implementation", ["torchtune-compiled", "torchtitan-compiled"])
def test_a_compiled_layer_keeps_what_products_and_attention_read(implementation: str) -> None:
    norms = 2 * (2 * U + ROWS)  # input and output of each, one number a row
    attention = 4 * U + SCORES  # q, k and v repeated for all heads, the output; the projection's is the norm's input
    assert layer(implementation) == norms + attention + 3 * MLP


@pytest.mark.parametrize("implementation", ["torchtune", "torchtitan"])
def test_a_layer_keeps_repeated_keys_and_values(implementation: str) -> None:
    shared = 2 * U * (HEADS - KV) // HEADS
    assert layer(implementation) == layer("hf") + shared


def test_a_compiled_loss_keeps_the_logits_as_they_are() -> None:
    logits, rows = BATCH * SEQ * VOCAB, 2 * ROWS
    found = kept("hf", 2, "compiled") - kept("hf", 2)
    assert found == pytest.approx(2 * logits + rows - 4 * logits, abs=8192)


def test_torchtune_casts_its_logits_outside_the_loss() -> None:
    logits = BATCH * SEQ * VOCAB
    found = kept("torchtune-compiled", 2) - kept("torchtitan-compiled", 2, "compiled")
    assert found == pytest.approx(2 * logits, abs=4096)


def test_offloaded_inputs_of_layers_are_not_held_for_every_layer() -> None:
    def peak(layers: int) -> int:
        run = {"model": {**CONFIG, "num_hidden_layers": layers}, "precision": "bf16", "batch_size": BATCH, "seq_len": SEQ,
               "checkpointing": "full", "offload": "activations", "lora": 4}  # fmt: skip
        memory = estimate(run).memory
        return memory.peak_allocated - memory.persistent

    assert peak(40) - peak(20) < 20 * U // 4


def test_torchtitans_chunks_go_back_one_by_one() -> None:
    """No chunk of logits is left when the forward pass ends: the gradients of the hidden states and the head are."""
    found = kept("torchtitan-compiled", 2, "chunked") - kept("torchtitan-compiled", 2, "compiled")
    logits, weight = 2 * BATCH * SEQ * VOCAB, 2 * VOCAB * HIDDEN
    norm = U  # the last norm's output was kept for the head
    assert found == pytest.approx(2 * U + weight - logits - norm, abs=16384)
