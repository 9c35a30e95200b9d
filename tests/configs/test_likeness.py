"""A model type that is not known is read as the one whose keys it has, with a warning, or it is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs.likeness import alike, is_known
from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate
from tests.configs.test_checkpoint import LLAMA, PARAMETERS

if TYPE_CHECKING:
    from pathlib import Path

NEW = {**LLAMA, "model_type": "brand_new", "architectures": ["BrandNewForCausalLM"]}
KINDS: list[tuple[dict[str, Any], str | None]] = [
    (NEW, "llama"),
    ({**NEW, "num_local_experts": 8, "num_experts_per_tok": 2}, "mixtral"),
    ({**NEW, "num_experts": 8, "moe_intermediate_size": 32}, "qwen3_moe"),
    ({**NEW, "n_routed_experts": 8, "moe_intermediate_size": 32}, "glm4_moe"),
    ({**NEW, "n_routed_experts": 8, "moe_intermediate_size": 32, "kv_lora_rank": 16}, "deepseek_v3"),
    ({**NEW, "num_local_experts": None}, "llama"),
    ({**NEW, "hybrid_override_pattern": "M*M*"}, None),
    ({**NEW, "mamba_num_heads": 8}, None),
    ({**NEW, "is_encoder_decoder": True}, None),
    ({**NEW, "is_encoder_decoder": False}, "llama"),
    ({key: value for key, value in NEW.items() if key != "architectures"}, None),
    ({key: value for key, value in NEW.items() if key != "vocab_size"}, None),
    ({key: value for key, value in NEW.items() if key != "intermediate_size"}, None),
    ({"model_type": "new_vl", "text_config": {**LLAMA}}, "llama"),
    ({"model_type": "new_vl", "text_config": {**NEW}}, "llama"),
]


@pytest.mark.parametrize(("config", "kind"), KINDS)
def test_the_keys_say_what_it_is_like(config: dict[str, Any], kind: str | None) -> None:
    assert not is_known(config)
    found = alike(config)
    assert (found and found[0]["model_type"]) == kind


def test_other_spellings_are_dimensions_too() -> None:
    found = alike(
        {
            "model_type": "new",
            "dtype": "bfloat16",
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 128,
            "vocab_size": 100,
            "n_kv_heads": 2,
        }
    )
    assert found is not None
    assert (found[0]["hidden_size"], found[0]["num_hidden_layers"], found[0]["intermediate_size"]) == (64, 2, 128)


def test_it_is_counted_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NEW))
    for source in (tmp_path / "config.json", tmp_path):
        report = estimate(source)
        assert report.model.parameters == PARAMETERS
        assert any("llama" in note.message for note in report.warnings if note.code == "read-as")


def test_a_known_class_under_a_name_of_its_own_is_no_guess(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "my_llama"}))
    assert is_known({**LLAMA, "model_type": "my_llama"})
    report = estimate(tmp_path / "config.json")
    assert (report.model.parameters, report.warnings) == (PARAMETERS, ())


def test_what_is_like_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**NEW, "hybrid_override_pattern": "M*"}))
    for source in (tmp_path / "config.json", tmp_path):
        with pytest.raises(RunInvalid, match="'brand_new' is not known"):
            estimate(source)
