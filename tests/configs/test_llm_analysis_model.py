"""llm-analysis' model files. Expectations: llm_analysis/config.py (ModelConfig); counts from the dimensions themselves."""

from __future__ import annotations

import json
from typing import Any

from memcalc.models import load_model
from tests.configs.reader import reading

PLAIN: dict[str, Any] = {"name": "test-13b", "max_seq_len": 2048, "num_layers": 40, "n_head": 40, "hidden_dim": 5120,
                         "vocab_size": 50272, "ffn_embed_dim": 20480}  # fmt: skip


def test_a_plain_decoder_is_a_gpt2() -> None:
    found = reading(json.dumps(PLAIN))
    assert found.format == "llm-analysis-model"
    h, v, layers = 5120, 50272, 40
    layer = 4 * h * h + 4 * h + 8 * h * h + 5 * h + 4 * h  # attention, feed-forward layer, their biases, two norms
    assert load_model(found.run["model"]).parameters == layers * layer + 2 * h + (v + 2048) * h


def test_gated_layers_are_a_llamas() -> None:
    given = {**PLAIN, "model_type": "llama", "num_key_value_heads": 8, "name": "mine"}
    h, f = 5120, 20480
    layer = (
        2 * h * h + 2 * h * 1024 + 3 * h * f + 2 * h
    )  # q and o, k and v of 8 heads of 128, three matrices, two norms
    assert load_model(reading(json.dumps(given)).run["model"]).parameters == 40 * layer + h + 2 * 50272 * h


def test_a_name_that_is_known_and_has_its_width_is_that_model() -> None:
    given = {
        "name": "gpt2-medium",
        "max_seq_len": 1024,
        "num_layers": 24,
        "n_head": 16,
        "hidden_dim": 1024,
        "vocab_size": 50257,
    }
    assert reading(json.dumps(given)).run["model"] == "gpt2-medium"
    assert isinstance(reading(json.dumps({**given, "hidden_dim": 512})).run["model"], dict)
