"""Images and videos of a run: sizes in pixels, how many of them, and what a model can't be shown."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.blocks.multimodal import Crops, Grid
from memcalc.errors import MemcalcError, RunInvalid
from memcalc.models import load_model
from memcalc.resolve.pictures import pictured, shown, tokens, tower
from memcalc.run.validation import parse_run

QWEN = {
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "text_config": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    },
    "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64, "intermediate_size": 64},
}  # fmt: skip


def peak(model: Any, **run: Any) -> int:
    return estimate({"model": model, "precision": "bf16", "seq_len": 512, **run}).memory.phases.forward


@pytest.mark.parametrize(
    ("given", "expected"), [(512, (512, 512)), ("640x480", (640, 480)), ([640, 480], (640, 480)), ("224", (224, 224))]
)
def test_a_size_is_one_side_or_two(given: Any, expected: tuple[int, int]) -> None:
    assert parse_run({"model": "vit-base-patch16-224", "image_size": given}).image_size == expected


@pytest.mark.parametrize("given", ["3y", "720x", "720x1280x3", 0, -5, [720], [1, 2, 3], {"height": 3}])
def test_what_is_no_size_is_told_how_to_write_one(given: Any) -> None:
    with pytest.raises(RunInvalid) as refusal:
        parse_run({"model": "vit-base-patch16-224", "image_size": given})
    assert [fault.where for fault in refusal.value.faults] == ["image_size"]
    assert "write one side in pixels" in refusal.value.faults[0].what


@pytest.mark.parametrize(
    ("model", "run", "image"),
    [
        ("vit-base-patch16-224", {"image_size": 384}, (3, 384, 384)),
        ("resnet-50", {"image_size": [256, 320]}, (3, 256, 320)),
        ("sdxl-unet", {"image_size": 768}, (4, 96, 96)),
        ("sd-vae", {"image_size": 512}, (3, 512, 512)),
        ("flux.1-dev", {"image_size": [512, 1024]}, (32 * 64, 64)),
        ("flux.1-kontext-dev", {"image_size": [512, 1024], "images": 1}, (2 * 32 * 64, 64)),
        ("qwen-image-edit", {"images": 2}, (3 * 64 * 64, 64)),  # shown two images, it makes a third
        ({"_class_name": "WanTransformer3DModel"}, {"image_size": [480, 832], "frames": 33}, (16, 9, 60, 104)),
        ("cosmos-predict2-2b-text2image", {"image_size": [768, 1360]}, (16, 1, 96, 170)),  # one image, unless asked
        ("cosmos-predict2-2b-video2world", {"image_size": [704, 1280]}, (17, 24, 88, 160)),
        ({"_class_name": "LTXVideoTransformer3DModel"}, {"image_size": 512, "frames": 33}, (5 * 16 * 16, 128)),
    ],
)
def test_what_a_model_is_given(model: Any, run: dict[str, Any], image: tuple[int, ...]) -> None:
    asked = parse_run({"model": model, **run})
    assert pictured(load_model(asked.model), asked).image == image


@pytest.mark.parametrize(
    ("model", "run", "where"),
    [
        ("llama-2-7b", {"images": 1}, "images"),
        ("llama-2-7b", {"image_size": 224}, "image_size"),
        ("sdxl-unet", {"image_size": 500}, "image_size"),  # no whole number of latent pixels
        ("sdxl-unet", {"frames": 8}, "frames"),
        ("sdxl-unet", {"images": 1}, "images"),
        ("vilt-b32-finetuned-vqa", {"images": 2}, "images"),
        ("vilt-b32-finetuned-vqa", {"images": 0}, "images"),  # its layers read both in one row
        ("git-base", {"images": 2}, "images"),
        ("blip-image-captioning-base", {"images": 2}, "images"),
        ("hidream-i1-full", {"image_size": 1000}, "image_size"),  # 125 latent ones a side, two by two a token
        ("wan-2.1-t2v-1.3b", {"image_size": [480, 840]}, "image_size"),
        ("ltx-2-19b", {"frames": 9}, "image_size"),  # all of its latents are listed in one row: how many of a frame?
        ("flux.1-dev", {"frames": 9}, "frames"),
        ("llava-1.5-7b", {"image_size": 500}, "image_size"),  # its processor makes them 336 x 336
        ("llava-1.5-7b", {"frames": 8}, "frames"),
        ("qwen2.5-vl-3b", {"images": 2}, "image_size"),  # of any size: which?
    ],
)
def test_what_a_model_cannot_be_shown_is_refused(model: str, run: dict[str, Any], where: str) -> None:
    with pytest.raises(MemcalcError, match=f"{where}: "):
        estimate({"model": model, **run})


def test_patches_of_an_image_of_any_size_as_qwen_counts_them() -> None:
    grid = Grid(14, 2, 2)
    assert grid.of((224, 280), 1) == (1, 16, 20)
    assert grid.of((230, 290), 7) == (4, 16, 20)  # the nearest multiples of 28; two frames to a patch


def test_crops_as_llava_next_counts_them() -> None:
    """672 x 672 of 24 x 24 patches each: 24² + 48 · 49 tokens, 2928 (transformers, LlavaNextProcessor)."""
    crops = Crops(((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)), 336, 24)
    assert crops.grid((672, 672)) == (2, 2)
    assert crops.tokens((672, 672)) == 24**2 + 48 * 49
    assert crops.grid((300, 900)) == (1, 3)
    assert Crops(((672, 672),), 336, 24, most=2).shrunk((672, 672)) == (33, 33)  # 48 / sqrt(2)


def test_a_default_image_needs_a_size() -> None:
    model = load_model(QWEN)
    seen = tower(model.body)
    assert seen is not None
    assert shown(parse_run({"model": QWEN}), seen) == 0
    asked = parse_run({"model": QWEN, "image_size": [224, 280], "images": 3})
    assert (shown(asked, seen), tokens(asked, seen)) == (3, 80)


def test_more_and_larger_images_take_more() -> None:
    alone = peak(QWEN, images=0)
    one, two = (peak(QWEN, images=count, image_size=224) for count in (1, 2))
    assert alone < one < two < peak(QWEN, images=2, image_size=448)


def test_a_tower_that_sees_nothing_gets_no_gradient() -> None:
    def states(**run: Any) -> int:
        return estimate({"model": QWEN, "precision": "bf16", **run}).memory.at_peak.optimizer_states

    assert states(images=0) < states(image_size=224)


def test_images_beyond_the_sequence_are_told() -> None:
    report = estimate({"model": QWEN, "image_size": 1024, "seq_len": 256})
    assert any(note.code == "beyond-the-sequence" for note in report.warnings)


def test_images_that_are_filled_up_have_no_size_of_their_own() -> None:
    with pytest.raises(RunInvalid, match="2520 patches, whatever its size"):
        estimate({"model": "gemma-4-26b-a4b", "image_size": [448, 448]})


def test_a_table_of_positions_keeps_its_size_whatever_is_shown() -> None:
    small, large = (estimate({"model": "yolos-tiny", "image_size": side}) for side in (512, 800))
    assert small.model.parameters == large.model.parameters
    assert small.memory.peak_allocated < large.memory.peak_allocated


def test_swin_fills_an_image_up_to_whole_patches() -> None:
    """130 x 190 pixels in patches of 4: a recorded step of transformers 5.23.0, of a model too small to be held by components."""
    model = {"model_type": "swinv2", "architectures": ["Swinv2ForImageClassification"], "embed_dim": 32, "depths": [2, 1],
             "num_heads": [2, 4], "window_size": 6, "image_size": [130, 190], "hidden_dropout_prob": 0.1}  # fmt: skip
    memory = estimate({"model": model, "precision": "bf16", "optimizer": "lion", "checkpointing": "full"}).memory
    assert (memory.peak_allocated, memory.peak_phase, memory.phases.forward) == (7_424_512, "backward", 2_745_856)
