"""Language models that hear, with encoders of their own: Audio Flamingo 3, GLM-ASR, Qwen3-ASR, Qwen2.5-Omni's thinker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.audio_lm import audio_encoder
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import channels
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.qwen_vl import images
from memcalc.architectures.seq2seq import attention, encoder_layer, norm
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear
from memcalc.blocks.image import Flatten, MergeNeighbours, Pool
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multimodal import Sounds
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("audioflamingo3", "musicflamingo")
def audioflamingo3(c: Dimensions) -> Model:
    """Whisper's encoder, pooled two by two, through two layers before Qwen 2 (Goel et al. 2025)."""
    a, hidden, bias = c.audio_config, c.text_config.hidden_size, bool(c.projector_bias)
    project = _projector(a.hidden_size, hidden, hidden, c.projector_hidden_act, bias=bias)
    return _hearing(c, project, tie=bool(c.get("tie_word_embeddings")))


@architecture("audioflamingo3_encoder")
def audioflamingo3_encoder(c: Dimensions) -> Model:
    """Qwen2-Audio's encoder under other keys."""
    names = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
    values = (c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size)
    return audio_encoder(c.but(**dict(zip(names, values, strict=True))))


@architecture("glmasr")
def glmasr(c: Dimensions) -> Model:
    """Four states side by side, as wide as the encoder's feed-forward layers, through two layers before a Llama."""
    hidden = c.text_config.hidden_size
    project = _projector(c.audio_config.intermediate_size, 2 * hidden, hidden, c.projector_hidden_act, merged=True)
    return _hearing(c, project, tie=bool(c.tie_word_embeddings))


@architecture("glmasr_encoder")
def glmasr_encoder(c: Dimensions) -> Model:
    """Whisper's convolutions, layers with rotary positions over half of a head."""
    hidden, heads, width, gelu = c.hidden_size, c.num_attention_heads, c.intermediate_size, Activation("", "gelu")
    kv, head = int(c.get("num_key_value_heads") or heads), int(c.get("head_dim") or channels(hidden, heads))
    mixer = Attention(
        "self_attn", heads, kv, head,
        q=Linear("q_proj", hidden, heads * head, bias=True), k=Linear("k_proj", hidden, kv * head),
        v=Linear("v_proj", hidden, kv * head, bias=True), out=Linear("o_proj", heads * head, hidden, bias=True),
        rotary_dim=head // 2, causal=False, dropout=float(c.attention_dropout),
    )  # fmt: skip
    up, down = Linear("fc1", hidden, width, bias=True), Linear("fc2", width, hidden, bias=True)
    layer = (
        residual(layer_norm("input_layernorm", hidden), mixer),
        residual(
            layer_norm("post_attention_layernorm", hidden), Mlp("mlp", up, down, activation=c.hidden_act, width=width)
        ),
    )
    first, second = (
        Conv("conv1", c.num_mel_bins, hidden, (3,), padding=1),
        Conv("conv2", hidden, hidden, (3,), 2, padding=1),
    )
    layers = repeat("layers", c.num_hidden_layers, *layer)
    return Model(sequence(first, gelu, second, gelu, Flatten(""), layers, layer_norm("norm", hidden)), "encoder")


@architecture("qwen3_asr")
def qwen3_asr(c: Dimensions) -> Model:
    """Three convolutions over pieces of a spectrogram, Whisper's layers, two layers before Qwen 3."""
    a = c.audio_config
    project = _projector(a.d_model, a.d_model, a.output_dim, a.activation_function)
    return _hearing(c, project, tie=bool(c.tie_word_embeddings))


@architecture("qwen3_asr_encoder")
def qwen3_asr_encoder(c: Dimensions) -> Model:
    """An eighth as many frames and mel bins, then layers."""
    return Model(sequence(*_piecewise(c)), "encoder")


@architecture("qwen3_omni_moe_audio_encoder")
def qwen3_omni_encoder(c: Dimensions) -> Model:
    """The same, and two layers to the text's width."""
    first = Linear("proj1", c.d_model, c.d_model, bias=True)
    second = Linear("proj2", c.d_model, c.output_dim, bias=True)
    return Model(sequence(*_piecewise(c), first, Activation("", c.activation_function), second), "encoder")


def _piecewise(c: Dimensions) -> tuple[Block, ...]:
    """Three convolutions over pieces of a spectrogram, layers, and a norm."""
    wide, act = c.downsample_hidden_size, Activation("", "gelu")
    convs = [Conv(f"conv2d{i}", 1 if i == 1 else wide, wide, (3, 3), 2, padding=1) for i in (1, 2, 3)]
    project = Linear("conv_out", wide * (-(-c.num_mel_bins // 8)), c.d_model)
    front = tuple(block for conv in convs for block in (conv, act))
    return (*front, Flatten(""), project, _layers(c, key_bias=True), norm(c, "ln_post"))


@architecture("qwen2_5_omni_thinker")
def thinker(c: Dimensions) -> Model:
    """Sounds and images before Qwen 2.5 (Xu et al. 2025); what makes it speak is not part of it."""
    sounds = Sounds("", (tower(c.audio_config, "audio_tower"),))
    text = tower(c.text_config, "language_model")
    return image_text(c, images(c), text, tie=bool(c.tie_word_embeddings), extra=(sounds,))


@architecture("qwen3_omni_moe_thinker")
def qwen3_thinker(c: Dimensions) -> Model:
    """Sounds and images before Qwen 3's mixture of experts, some of the images' states added in its first layers (2025)."""
    sounds = Sounds("", (tower(c.audio_config, "audio_tower"),))
    text = tower(c.text_config, "language_model")
    return image_text(c, images(c, asks=False), text, tie=bool(c.tie_word_embeddings), extra=(sounds,))


@architecture("qwen3_omni_moe")
def qwen3_omni_moe(c: Dimensions) -> Model:
    """Its thinker alone."""
    return model_of(c.thinker_config.but(architectures=["Qwen3OmniMoeThinkerForConditionalGeneration"]))


@architecture("qwen2_5_omni")
def qwen2_5_omni(c: Dimensions) -> Model:
    """The thinker alone: the talker and what follows it have no training step."""
    return model_of(c.thinker_config.but(architectures=["Qwen2_5OmniThinkerForConditionalGeneration"]))


@architecture("qwen2_5_omni_audio_encoder")
def omni_encoder(c: Dimensions) -> Model:
    """Whisper's encoder in stretches of 2 · n_window frames, pooled two by two, projected to the text's width."""
    width, gelu = c.d_model, Activation("", "gelu")
    convs = (
        Conv("conv1", c.num_mel_bins, width, (3,), padding=1),
        gelu,
        Conv("conv2", width, width, (3,), 2, padding=1),
        gelu,
    )
    ends = Embedding("audio_bos_eos_token", 2, c.output_dim)
    behind = (Pool("", "average", 2, 2), norm(c, "ln_post"), Linear("proj", width, c.output_dim, bias=True))
    return Model(sequence(*convs, Flatten(""), ends, _layers(c, key_bias=False), *behind), "encoder")


def _layers(c: Dimensions, *, key_bias: bool) -> Block:
    mixer = attention(c, "self_attn", c.encoder_attention_heads, key_bias=key_bias)
    return repeat("layers", c.encoder_layers, encoder_layer(c, mixer, pre_norm=True))


def _projector(
    inputs: int, width: int, outputs: int, activation: str, *, bias: bool = True, merged: bool = False
) -> Sequence:
    first, second = Linear("linear_1", inputs, width, bias), Linear("linear_2", width, outputs, bias)
    merge = MergeNeighbours("", 2) if merged else None
    return sequence(merge, first, Activation("", activation), second, name="multi_modal_projector")


def _hearing(c: Dimensions, project: Sequence, *, tie: bool) -> Model:
    """The encoder and the projector as sounds, and the language model."""
    sounds = Sounds("", (tower(c.audio_config, "audio_tower"), project))
    return image_text(c, sounds, tower(c.text_config, "language_model"), tie=tie)
