"""Language models that hear: Whisper's encoder before Qwen 2 (Qwen2-Audio, Chu et al. 2024) or a Llama (Voxtral)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.seq2seq import attention, dropout, encoder_layer, norm
from memcalc.blocks.base import Sum, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear
from memcalc.blocks.image import Flatten, MergeNeighbours, Pool
from memcalc.blocks.multimodal import Sounds
from memcalc.blocks.querying import ShiftedLogits
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions


@architecture("qwen2_audio")
def qwen2_audio(c: Dimensions) -> Model:
    """The encoder's states, two by two, through one linear layer; its loss reads a copy of the logits as they are."""
    hidden = c.audio_config.d_model
    project = sequence(Linear("linear", hidden, c.text_config.hidden_size, bias=True), name="multi_modal_projector")
    sounds = Sounds("", (tower(c.audio_config, "audio_tower"), project))
    tie, text = bool(c.get("tie_word_embeddings")), tower(c.text_config, "language_model")
    return image_text(c, sounds, text, tie=tie, logits=ShiftedLogits(""), loss_fp32=False)


@architecture("voxtral")
def voxtral(c: Dimensions) -> Model:
    """Four states side by side, as wide as the encoder's feed-forward layers, through two layers (Liu et al. 2025)."""
    wide, hidden = c.audio_config.encoder_ffn_dim, c.text_config.hidden_size
    first, second = Linear("linear_1", wide, hidden), Linear("linear_2", hidden, hidden)
    act = Activation("", c.projector_hidden_act)
    project = sequence(MergeNeighbours("", 2), first, act, second, name="multi_modal_projector")
    sounds = Sounds("", (tower(c.audio_config, "audio_tower"), project))
    tie = bool(c.get("tie_word_embeddings"))
    return image_text(c, sounds, tower(c.text_config, "language_model"), tie=tie)


@architecture("qwen2_audio_encoder")
def audio_encoder(c: Dimensions) -> Model:
    """Whisper's encoder, pooled two by two before its last norm."""
    return _encoder(c, Pool("", "average", 2, 2))


@architecture("voxtral_encoder")
def voxtral_encoder(c: Dimensions) -> Model:
    """Whisper's encoder."""
    return _encoder(c)


def _encoder(c: Dimensions, *pooled: Block) -> Model:
    width, gelu = c.d_model, Activation("", "gelu")
    places = Embedding("embed_positions", c.max_source_positions, width, trainable=False, index="positions")
    mixer = attention(c, "self_attn", c.encoder_attention_heads, key_bias=False)
    body = sequence(
        Conv("conv1", c.num_mel_bins, width, (3,), padding=1), gelu, Conv("conv2", width, width, (3,), 2, padding=1), gelu,
        Flatten(""), Sum("", (sequence(), places)), dropout(c),
        repeat("layers", c.encoder_layers, encoder_layer(c, mixer, pre_norm=True)), *pooled, norm(c, "layer_norm"),
    )  # fmt: skip
    return Model(body, "encoder")
