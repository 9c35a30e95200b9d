"""Llama-2-7B, bf16, batch 1 x 2048, sdpa: worked out by hand, tensor by tensor."""

from __future__ import annotations

from memcalc import estimate

BATCH, SEQ, HIDDEN, WIDTH, HEADS, LAYERS, VOCAB, DIM = 1, 2048, 4096, 11008, 32, 32, 32000, 128
RUN = {"model": "llama-2-7b", "precision": "bf16", "optimizer": "none", "batch_size": BATCH, "seq_len": SEQ}


def test_activations_of_llama_2_7b() -> None:
    """What autograd keeps: norms, attention and MLP of every layer, the last norm, log-softmax, rotary tables."""
    u = BATCH * SEQ * HIDDEN * 2
    rows, roots = BATCH * SEQ * 4, 2
    norm = 4 * u  # the fp32 copy that pow and mul read (2 u), the normed value, its output
    attention = 4 * u + 4 * BATCH * HEADS * SEQ  # rotated q and k, v, the output; a log-sum-exp a row
    mlp = 4 * BATCH * SEQ * WIDTH * 2  # gate, silu(gate), up, their product
    layer = 2 * norm + attention + mlp + roots * rows
    last = norm + rows + 4 * BATCH * SEQ * VOCAB  # the last norm; log-softmax in fp32
    tables = 2 * BATCH * SEQ * DIM * 2
    by_hand = LAYERS * layer + last + tables
    assert by_hand == 12_553_035_776
    found = estimate(RUN).memory.components.activations
    small = 70_000  # ids, labels, the loss and its weight, frequencies
    assert by_hand <= found <= by_hand + small


def test_checkpointing_keeps_the_input_of_every_layer() -> None:
    kept = estimate({**RUN, "checkpointing": "full"}).memory.components.activations
    whole = estimate(RUN).memory.components.activations
    u = BATCH * SEQ * HIDDEN * 2
    assert kept < whole / 8
    assert LAYERS * u < kept < LAYERS * u + 6 * u + 4 * BATCH * SEQ * VOCAB


def test_a_longer_stack_of_layers_costs_the_same_for_each() -> None:
    def peak(layers: int) -> int:
        config = {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
                  "num_key_value_heads": 8, "vocab_size": 1000, "num_hidden_layers": layers}  # fmt: skip
        return estimate({**RUN, "model": config}).memory.components.activations

    assert peak(40) - peak(39) == peak(5) - peak(4) == peak(3) - peak(2)
