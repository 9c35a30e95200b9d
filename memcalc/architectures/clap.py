"""CLAP: texts and sounds compared; RoBERTa beside a Swin over spectrograms (Wu et al. 2022, Chen et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import embeddings, post_norm_layer, self_attention
from memcalc.architectures.heads import pooler, task
from memcalc.architectures.swin import stages_with_indices
from memcalc.architectures.vision import pair
from memcalc.blocks.base import Block, Sequence, Stack, Stray, Unused, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Raw
from memcalc.blocks.image import Flatten, Pool
from memcalc.blocks.sounds import Heard, MelImage, TimeMean
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

FRAMES = 1001  # of a clip of ten seconds (ClapFeatureExtractor)


@architecture("clap")
def clap(c: Dimensions) -> Model:
    """Both towers, each through two layers; their cosines times a temperature for each direction."""
    if task(c) != "Model":
        raise fault("model.architectures", "of clap only ClapModel is known")
    text, audio = c.text_config, c.audio_config
    words = Sequence("text_model", _text(text)), _projection(text, "text_projection")
    heard = Sequence("audio_model", (_audio(audio),)), _projection(audio, "audio_projection")
    scales = (Raw("logit_scale_a", ()), Raw("logit_scale_t", ()))
    body = sequence(Heard("", (sequence(*words), sequence(*heard))), *scales)
    return Model(body, "image-text", context=text.max_position_embeddings - text.pad_token_id - 1, image=_clip(audio))


@architecture("clap_text_model")
def clap_text(c: Dimensions) -> Model:
    """RoBERTa; its pooler is an output that the mean of the last hidden state goes past."""
    *base, pooled = _text(c)
    return Model(sequence(*base, Stray("", (pooled,))), "encoder", c.max_position_embeddings - c.pad_token_id - 1)


@architecture("clap_audio_model")
def clap_audio(c: Dimensions) -> Model:
    """The tower of sounds by itself."""
    return Model(sequence(_audio(c)), "encoder", image=_clip(c))


def _text(c: Dimensions) -> tuple[Block, ...]:
    mixer = self_attention(c, softmax="fp32", padded=True, eager_only=True)
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c, mixer)),))
    before = embeddings(c, positions="token-positions")
    rows = c.max_position_embeddings
    buffers = (Raw(name, (1, rows), buffer=True, dtype="int64") for name in ("position_ids", "token_type_ids"))
    return (Sequence("embeddings", (*before.blocks, *buffers)), layers, pooler(c, "pooler"))


def _projection(c: Dimensions, name: str) -> Sequence:
    width = c.projection_dim
    first, second = Linear("linear1", c.hidden_size, width, bias=True), Linear("linear2", width, width, bias=True)
    return sequence(first, Activation("", c.projection_hidden_act), second, name=name)


def _clip(c: Dimensions) -> tuple[int, ...]:
    """(channels, frames, mel bins): a whole clip, and three pieces of it where both are seen."""
    return (4 if c.enable_fusion else 1, FRAMES, c.num_mel_bins)


def _audio(c: Dimensions) -> Sequence:
    """Spectrogram, patches, Swin's stages, a norm, the mean over time."""
    side, ratio, width = c.spec_size, c.spec_size // c.num_mel_bins, c.patch_embeds_hidden_size
    last = len(c.depths) - 1
    layers = stages_with_indices(c.but(image_size=side, embed_dim=width, num_heads=c.num_attention_heads))
    image = MelImage("", side, ratio, Norm("batch_norm", c.num_mel_bins, "batch", "batch"))
    mean = TimeMean("", side // pair(c.patch_stride)[0] // 2**last, ratio)
    blocks = (image, _patches(c), layers, Norm("norm", width * 2**last, "layer"), mean)
    return Sequence("audio_encoder", blocks)


def _patches(c: Dimensions) -> Sequence:
    width, size, stride = c.patch_embeds_hidden_size, pair(c.patch_size), pair(c.patch_stride)
    padding = tuple((n - s) // 2 for n, s in zip(size, stride, strict=True))
    channels = c.patch_embed_input_channels * (4 if c.enable_fusion and c.fusion_type == "channel_map" else 1)
    conv = Conv("proj", channels, width, size, stride, padding=padding, embeds=True)
    norm = Norm("norm", width, "layer") if c.enable_patch_layer_norm else None
    fusion = _fusion(c, (size[0], 3 * size[1]), (stride[0], 3 * stride[1])) if c.enable_fusion else None
    return sequence(conv, Flatten(""), norm, fusion, name="patch_embed")


def _fusion(c: Dimensions, size: tuple[int, ...], stride: tuple[int, ...]) -> Unused:
    """What joins pieces of longer sounds to the whole: idle in a batch of short ones."""
    width, inner = c.patch_embeds_hidden_size, c.patch_embeds_hidden_size // c.aff_block_r

    def branch(name: str, *first: Block) -> Stack:
        inwards, outwards = Conv("", width, inner, (1, 1)), Conv("", inner, width, (1, 1))
        norms = (Norm("", n, "batch", "batch") for n in (inner, width))
        return Stack(name, (*first, inwards, next(norms), Activation("", "relu"), outwards, next(norms)))

    pieces = Conv("mel_conv2d", c.patch_embed_input_channels, width, size, stride)
    return Unused("", (branch("fusion_model.local_att"), branch("fusion_model.global_att", Pool("")), pieces))
