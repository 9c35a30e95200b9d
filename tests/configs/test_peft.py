"""PEFT's adapter_config.json: methods, their own keys and defaults (peft 0.21, tuners/*/config.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, reading


def read(**given: Any) -> dict[str, Any]:
    found = reading(json.dumps({"base_model_name_or_path": "gpt2", **given}), name="adapter_config.json")
    assert found.format == "peft"
    return dict(found.run)


ADAPTERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"peft_type": "LORA"}, {"method": "lora", "rank": 8}),
    ({"peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.1, "target_modules": ["q_proj"], "use_dora": True,
      "use_rslora": False, "bias": "none", "rank_pattern": {"layers.0": 4}, "modules_to_save": ["lm_head"],
      "task_type": "CAUSAL_LM"},
     {"method": "lora", "rank": 32, "alpha": 64, "dropout": 0.1, "targets": ["q_proj"], "dora": True, "rslora": False,
      "bias": "none", "rank_pattern": {"layers.0": 4}, "save_modules": ["lm_head"], "task": "CAUSAL_LM"}),
    ({"peft_type": "LORA", "target_modules": ".*(q|v)_proj"}, {"method": "lora", "rank": 8, "targets": ".*(q|v)_proj"}),
    ({"peft_type": "ADALORA", "r": 8, "init_r": 64, "target_r": 32}, {"method": "adalora", "init_rank": 64, "target_rank": 32}),
    ({"peft_type": "LOKR", "r": 32, "decompose_factor": 4}, {"method": "lokr", "rank": 32, "decompose_factor": 4}),
    ({"peft_type": "IA3", "feedforward_modules": ["down_proj"]}, {"method": "ia3", "feedforward": ["down_proj"]}),
    ({"peft_type": "VERA"}, {"method": "vera", "rank": 256}),
    ({"peft_type": "OFT", "r": 0, "oft_block_size": 32}, {"method": "oft", "block_size": 32}),
    ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20, "prefix_projection": True},
     {"method": "prefix", "virtual_tokens": 20, "projection": True}),
    ({"peft_type": "P_TUNING", "num_virtual_tokens": 8, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 64},
     {"method": "p-tuning", "virtual_tokens": 8, "encoder": "lstm", "encoder_hidden_size": 64}),
    ({"peft_type": "LN_TUNING", "target_modules": None}, {"method": "ln-tuning"}),
    ({"peft_type": "FOURIERFT", "n_frequency": 500, "scaling": 300.0, "n_frequency_pattern": {"v_proj": 9}},
     {"method": "fourierft", "rank": 500, "rank_pattern": {"v_proj": 9}}),
    ({"peft_type": "BOFT", "boft_block_num": 8, "boft_block_size": 0, "bias": "boft_only", "boft_dropout": 0.1},
     {"method": "boft", "options": {"boft_block_num": 8, "boft_block_size": 0}, "bias": "lora_only", "dropout": 0.1}),
    ({"peft_type": "BONE", "init_weights": "bat"}, {"method": "miss", "rank": 64, "options": {"init_weights": "bat"}}),
    ({"peft_type": "OSF", "rank_pattern": {"q_proj": 7}}, {"method": "osf", "rank_pattern": {"q_proj": 7}}),
    ({"peft_type": "CPT", "cpt_token_ids": [1, 2, 3]}, {"method": "cpt", "virtual_tokens": 3}),
    ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [5, 6]}, {"method": "trainable-tokens", "token_indices": [5, 6]}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), ADAPTERS)
def test_adapters_in_the_words_of_a_run(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(**given)["lora"] == expected


def test_a_method_that_is_not_modelled_is_refused_by_name() -> None:
    with pytest.raises(RunInvalid, match="what XLORA trains is not modelled"):
        read(peft_type="XLORA", xlora_depth=1)
    found = reading('{"peft_type": "XLORA", "base_model_name_or_path": "gpt2"}', lora=16)
    assert ("lora" in found.run, found.run["model"], codes(found)) == (False, "gpt2", {"not-modelled"})


def test_what_a_variant_adds_is_said() -> None:
    given = {"peft_type": "LORA", "base_model_name_or_path": "gpt2", "layer_replication": [[0, 4]], "brand_new": 1}
    found = reading(json.dumps(given))
    assert codes(found) == {"not-modelled", "keys-not-read"}


def test_without_a_base_the_model_is_asked_for() -> None:
    with pytest.raises(RunInvalid, match="--model"):
        reading('{"peft_type": "LORA", "base_model_name_or_path": null}')
    assert reading('{"peft_type": "LORA"}', model="gpt2").run["lora"] == {"method": "lora", "rank": 8}
