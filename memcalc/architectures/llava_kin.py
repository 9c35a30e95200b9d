"""An image encoder, a projector of its own, a language model: DeepSeek-VL, GOT-OCR 2, Aria, Ovis 2, Fuyu, ShieldGemma 2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.clip import multihead
from memcalc.architectures.decoder import gated_mlp, rms
from memcalc.architectures.llava import gemma3
from memcalc.architectures.multimodal import image_text, tied, tower, under
from memcalc.architectures.vision import attention, class_name, encoder_layer, grid, image, made, pair, patches
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Aside, Flatten
from memcalc.blocks.multimodal import Grid, Images, Probabilities, VisualWords
from memcalc.blocks.towers import FilledSquares

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("deepseek_vl")
def deepseek_vl(c: Dimensions) -> Model:
    """SigLIP's tokens through two linear layers; what pools them runs for nobody (Lu et al. 2024)."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    whole = tower(v, "vision_model")
    read = tuple(Aside("", (block,)) if block.name == "head" else block for block in whole.blocks)
    first, second = Linear("linear1", v.hidden_size, hidden, bias=True), Linear("linear2", hidden, hidden, bias=True)
    project = sequence(first, Activation("", "gelu"), second, name="aligner")
    images = Images("", (replace(whole, blocks=read), project), image(v), grid(v), scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("got_ocr2")
def got_ocr2(c: Dimensions) -> Model:
    """Segment Anything's map halved twice, a linear layer, Qwen 2 (Wei et al. 2024)."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    wide = v.output_channels
    halves = (
        Conv("conv_upsampler1", wide, 2 * wide, (3, 3), 2, bias=False, padding=1),
        Conv("conv_upsampler2", 2 * wide, hidden, (3, 3), 2, bias=False, padding=1),
    )
    last = Linear("multimodal_projector", hidden, hidden, bias=True)
    project = sequence(*halves, Flatten(""), last, name="multi_modal_projector")
    images = Images("", (tower(v, "vision_tower"), project), image(v), grid(v) // 16, scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("deepseek_vl_hybrid")
def deepseek_vl_hybrid(c: Dimensions) -> Model:
    """DeepSeek-VL with Segment Anything's tower beside: two of its maps, halved twice, added; both towers' channels joined."""
    v, high, hidden = c.vision_config, c.high_res_vision_config, c.text_config.hidden_size
    wide = high.output_channels
    neck = (
        Conv("conv1", high.hidden_size, wide, (1, 1), bias=False), Norm("layer_norm1", wide, "layer", "channels-first"),
        Conv("conv2", wide, wide, (3, 3), bias=False, padding=1), Norm("layer_norm2", wide, "layer", "channels-first"),
    )  # fmt: skip
    halves = [Conv(f"conv{i}", i * wide, 2 * i * wide, (3, 3), 2, bias=False, padding=1) for i in (1, 2)]
    aligner = (
        Linear("vision_proj", v.hidden_size, hidden // 2, bias=True),
        Linear("high_res_vision_proj", 4 * wide, hidden // 2, bias=True),
        Activation("", "gelu"), Linear("proj", hidden, hidden, bias=True),
    )  # fmt: skip
    parts = (
        Raw("high_res_vision_alpha", (1,)),
        under("high_res_vision_model", model_of(high).body),
        Sequence("high_res_vision_neck", neck),
        Sequence("high_res_vision_proj", tuple(halves)), tower(v, "vision_model"), Sequence("aligner", aligner),
    )  # fmt: skip
    images = Images("", parts, image(v), grid(v))
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("fuyu")
def fuyu(c: Dimensions) -> Model:
    """Squares of pixels through one linear layer before Persimmon (Adept 2023)."""
    project = Linear("vision_embed_tokens", c.patch_size**2 * c.num_channels, c.text_config.hidden_size, bias=True)
    images = Images("", (project,), grid=Grid(c.patch_size, up=True), scattered=True, asks=False, returned=False)
    if class_name(c).endswith("ForCausalLM"):  # what its class of images and text is called
        c = c.but(architectures=["FuyuForConditionalGeneration"])
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("aria")
def aria(c: Dimensions) -> Model:
    """SigLIP's tokens read by learned queries, as many as its dictionary says; Aria's mixture (Li et al. 2024)."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    # queries of so many patches (AriaConfig.__post_init__)
    wide, counts = v.hidden_size, c.get("projector_patch_to_query_dict") or {1225: 128, 4900: 256}
    read = (
        Norm("layer_norm", wide, "layer"), Linear("q_proj", wide, wide), Norm("layer_norm_kv", wide, "layer"),
        Linear("k_proj", wide, wide), Linear("v_proj", wide, wide), multihead("multihead_attn", wide, v.num_attention_heads),
        Linear("linear", wide, wide, bias=True),
    )  # fmt: skip
    feed = Linear("linear_in", wide, hidden), Activation("", "gelu_new"), Linear("linear_out", hidden, hidden)
    project = sequence(
        Raw("query", (max(counts.values()), wide)), Sequence("cross_attn", read), Norm("layer_norm", wide, "layer"),
        Sequence("feed_forward", feed), name="multi_modal_projector",
    )  # fmt: skip
    count = {int(patches): queries for patches, queries in counts.items()}.get(grid(v), max(counts.values()))
    images = Images("", (tower(v, "vision_tower"), project), image(v), count)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("ovis2")
def ovis2(c: Dimensions) -> Model:
    """Each patch becomes a mixture of the rows of a table of visual words (Lu et al. 2024); Qwen 2 on top."""
    v = c.vision_config
    table = VisualWords("visual_embeddings_table", (v.vocab_size, c.hidden_size), v.num_visual_indicator_tokens)
    plain = v.tokenize_function == "softmax"
    side = -(-pair(v.image_size)[0] // pair(v.patch_size)[0] // v.hidden_stride)
    images = Images("", (tower(v, "vision_tower"), table), image(v), side**2, scattered=plain)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("ovis2_vision")
def ovis2_vision(c: Dimensions) -> Model:
    """A ViT with RMSNorms and gated MLPs, and logits of visual words, normed, as probabilities."""
    hidden, words = c.hidden_size, c.vocab_size - c.num_visual_indicator_tokens
    places = Embedding("position_embedding", grid(c), hidden, index="positions")
    start = sequence(patches(c, "patch_embedding", embeds=False), rms("rms_norm", hidden), places, name="embeddings")
    mixer = attention(c, "attention", out="out_proj", bias=bool(c.qkv_bias), out_bias=bool(c.qkv_bias))
    norms = rms("rms_norm1", hidden), rms("rms_norm2", hidden)
    layer = encoder_layer(mixer, gated_mlp(c, "ffn", bias=bool(c.mlp_bias)), norms)
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="encoder")
    body = sequence(start, layers, rms("rms_norm", hidden), name="transformer")
    merged = FilledSquares("", c.hidden_stride) if c.hidden_stride > 1 else None
    head = Linear("head_linear", hidden * c.hidden_stride**2, words), Norm("head_norm", words, "layer")
    return made(c, sequence(body, merged, *head, Probabilities("")), "encoder")


@architecture("shieldgemma2")
def shieldgemma2(c: Dimensions) -> Model:
    """Gemma 3 under a name of its own, whose last token's logits of two words are its answer (Zeng et al. 2025)."""
    inner = gemma3(c.but(architectures=["Gemma3ForConditionalGeneration"]))
    return replace(inner, body=sequence(under("model", inner.body)))
