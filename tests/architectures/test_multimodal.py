"""Models of images and text: nested configs, image tokens, ties by longer names."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.architectures import build, dimensions
from memcalc.architectures.multimodal import under
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.multimodal import Images
from memcalc.errors import UnknownName
from memcalc.tensors import tensors
from tests.architectures.walk import kinds

TEXT: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                        "intermediate_size": 80, "vocab_size": 99}  # fmt: skip
IMAGE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 60,
                         "image_size": 32, "patch_size": 8}  # fmt: skip


def test_a_nested_config_that_is_absent_has_the_dimensions_its_library_class_gives() -> None:
    c = dimensions("llava", {})
    assert (c.vision_config.hidden_size, c.vision_config.image_size) == (1024, 336)
    assert c.text_config.model_type == "llama"


def test_one_that_is_there_has_its_own_class_defaults() -> None:
    c = dimensions("llava", {"vision_config": {"num_hidden_layers": 2}})
    assert (c.vision_config.hidden_size, c.vision_config.image_size) == (768, 224)  # CLIPVisionConfig()


def test_a_fixed_class_is_read_whatever_type_the_file_names() -> None:
    c = dimensions("qwen2_vl", {"vision_config": {"model_type": "qwen2_vl", "depth": 2}})
    assert c.vision_config.model_type == "qwen2_vl_vision"


def test_a_flat_file_is_read_like_a_nested_one() -> None:
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 48, "num_heads": 4}
    flat = build("qwen2_vl", {**TEXT, "vision_config": vision})
    assert flat.tensors == build("qwen2_vl", {"text_config": TEXT, "vision_config": vision}).tensors


def test_a_text_of_unknown_type_is_refused() -> None:
    with pytest.raises(UnknownName, match="'nosuch'"):
        build("llava", {"text_config": {"model_type": "nosuch"}})


@pytest.mark.parametrize(
    ("model_type", "given", "tokens"),
    [
        ("llava", {"text_config": TEXT, "vision_config": IMAGE}, 16),
        ("gemma3", {"text_config": {**TEXT, "head_dim": 8}, "vision_config": IMAGE, "mm_tokens_per_image": 4}, 4),
        ("idefics3", {"text_config": TEXT, "vision_config": IMAGE}, 4),
        ("qwen2_vl", {"text_config": TEXT, "vision_config": {"depth": 1, "hidden_size": 48}}, 0),
    ],
)
def test_how_many_tokens_an_image_becomes(model_type: str, given: dict[str, Any], tokens: int) -> None:
    model = build(model_type, given)
    assert [images.tokens for images in kinds(model, Images)] == [tokens]
    assert model.kind == "causal-lm"
    assert model.image == ()  # what such a model reads is text; the images have their place in the block


def test_a_tie_said_only_in_the_text_config_holds_for_llava() -> None:
    def head(model_type: str) -> str:
        given = {"text_config": {**TEXT, "tie_word_embeddings": True}, "vision_config": IMAGE}
        return next(t.tied_to for t in build(model_type, given).tensors if t.name == "lm_head.weight")

    assert head("llava") == "model.language_model.embed_tokens.weight"
    assert head("llava_next") == ""


def test_what_is_tied_stays_tied_under_a_longer_name() -> None:
    layer = Linear("out", 2, 2, tied_to="embed.weight")
    body = sequence(Embedding("embed", 5, 2), repeat("layers", 3, layer))
    moved = {t.name: t.tied_to for t in tensors(under("language_model", body))}
    assert moved == {"language_model.embed.weight": "",
                     "language_model.layers.{0..2}.out.weight": "language_model.embed.weight"}  # fmt: skip


def test_llama_3_2_reads_images_by_cross_attention_in_some_layers() -> None:
    text = {**TEXT, "num_hidden_layers": 4, "cross_attention_layers": [1, 3]}
    model = build("mllama_text_model", text)
    assert [mixer.cross for mixer in kinds(model, Attention)] == [False, True, False, True]
    table = next(t for t in model.tensors if t.name == "model.embed_tokens.weight")
    assert table.shape == (99 + 8, 48)


def test_gemma_4_shares_keys_and_values_of_earlier_layers() -> None:
    text = {**TEXT, "num_hidden_layers": 4, "head_dim": 8, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip
    mixers = kinds(build("gemma4_text", text), Attention)
    assert [mixer.k is None for mixer in mixers] == [False, False, True, True]
    assert [mixer.head_dim for mixer in mixers] == [8, 512, 8, 512]


@pytest.mark.parametrize(
    ("model", "said"), [("qwen2-audio-7b", True), ("qwen2.5-omni-7b", True), ("gemma-3-4b", False)]
)
def test_a_model_that_hears_is_said_to_be_counted_without_sound(model: str, said: bool) -> None:
    assert any(note.code == "no-sound" for note in estimate({"model": model}).assumptions) is said
