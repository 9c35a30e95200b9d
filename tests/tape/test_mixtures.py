"""What mixtures of experts keep: every token once for each expert it goes to, whatever the router says."""

from __future__ import annotations

from typing import Any

from memcalc import estimate

MIXTRAL = {
    "model_type": "mixtral", "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
SEQ = 128


def activations(model: dict[str, Any]) -> int:
    run = {"model": model, "precision": "bf16", "batch_size": 1, "seq_len": SEQ, "optimizer": "none"}
    return estimate(run).memory.components.activations


def test_one_more_expert_a_token_costs_its_rows_and_no_more() -> None:
    """A row and its output, gate and up, silu and the product, and what is weighted: 2 hidden + 4.5 width … a choice."""
    hidden, width, layers = 256, 512, 4
    rows = layers * SEQ * 2 * (2 * hidden + 4 * width)  # selected, projected, gate and up, activated, multiplied
    more = activations({**MIXTRAL, "num_experts_per_tok": 3}) - activations(MIXTRAL)
    assert rows <= more <= 1.1 * rows


def test_more_experts_cost_only_their_logits() -> None:
    logits = 4 * SEQ * 8 * (2 + 4 + 4)  # bf16 logits, and probabilities in fp32
    assert 0 < activations({**MIXTRAL, "num_local_experts": 16}) - activations(MIXTRAL) <= logits


def test_experts_that_a_loop_runs_are_counted_too() -> None:
    """DeepSeek-MoE's remote code and DBRX choose rows by the data: all of them together are as many as chosen."""
    run = {"model": "deepseek-moe-16b", "precision": "bf16", "seq_len": 256, "optimizer": "none"}
    report = estimate(run)
    assert report.memory.components.activations > 27 * 256 * 2 * 6 * (2 * 2048 + 4 * 1408)
    assert report.memory.components.gradients == 2 * report.model.parameters
