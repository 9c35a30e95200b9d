"""Models of images and text of a tower, a projector and a decoder of others: their steps are followed, their faults named."""

from __future__ import annotations

import pytest

from memcalc import MemcalcError, estimate
from memcalc.architectures import build
from memcalc.blocks.multimodal import Images
from memcalc.presets import find
from memcalc.resolve.pictures import tower

PRESETS = {  # and how many tokens of the text an image becomes (0: that depends on its size)
    "vip-llava-7b": 576, "video-llava-7b": 256, "paddleocr-vl": 0, "videollama3-2b": 0, "fuyu-8b": 0, "aria": 256,
    "colpali-v1.3": 1024, "colqwen2-v1.0": 0, "shieldgemma-2-4b": 256,
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_an_image_becomes_so_many_tokens(name: str) -> None:
    card = find("models", name)
    seen = tower(build(card["architecture"], card["dimensions"], name).body)
    assert isinstance(seen, Images)
    assert seen.tokens == PRESETS[name]


@pytest.mark.parametrize("name", [*PRESETS, "privacy-filter"])
def test_a_step_of_it_is_followed(name: str) -> None:
    report = estimate({"model": name, "precision": "bf16", "seq_len": 64, **({"images": 0} if name in PRESETS else {})})
    assert [w.code for w in report.warnings if "tape" in w.code or "unmodelled" in w.code] == []
    assert report.memory.components.activations > 0


def test_states_of_several_layers_are_read_side_by_side() -> None:
    card = find("models", "vip-llava-7b")
    one = build("vipllava", {**card["dimensions"], "vision_feature_layer": [-2]})
    many = build("vipllava", {**card["dimensions"], "vision_feature_layer": [-2, 3]})
    assert many.parameters - one.parameters == 1024 * (4096 + 2)  # the projector's first layer, and its norm


def test_a_nested_config_must_be_one() -> None:
    with pytest.raises(MemcalcError, match="vision_config"):
        build("paddleocr_vl", {"vision_config": 14})
