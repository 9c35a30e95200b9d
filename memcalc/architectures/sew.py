"""SEW and SEW-D: wav2vec 2.0, or DeBERTa on sound, whose layers see a squeezed sequence (Wu et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.deberta import attention_v2, relative_table
from memcalc.architectures.encoder import post_norm_layer
from memcalc.architectures.heads import task, with_head
from memcalc.architectures.speech_heads import CAPTURING, speech_heads
from memcalc.architectures.wav2vec2 import features, layer
from memcalc.blocks.base import Block, Sequence, Stack, Stray, repeat, sequence
from memcalc.blocks.basic import Dropout, Linear, Norm, Raw
from memcalc.blocks.disentangled import DisentangledEncoder
from memcalc.blocks.image import Flatten
from memcalc.blocks.speech import Squeezed, WeightNormConv

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

HEADS = ("ForCTC", "ForSequenceClassification")


@architecture("sew")
def sew(c: Dimensions) -> Model:
    """Narrow convolutions of the waveform, post-norm layers over half as many frames, and as many again behind them."""
    layers = Stack("layers", (layer(c),) * c.num_hidden_layers, captured=task(c) in CAPTURING)
    blocks = (Norm("layer_norm", c.hidden_size, "layer"), Dropout("", float(c.hidden_dropout)), layers)
    return _squeezing(c, "sew", blocks, captured=layers.captured)


@architecture("sew-d")
def sew_d(c: Dimensions) -> Model:
    """The same around DeBERTa's layers, with a softmax and dropouts of their own."""
    own = c.but(hidden_dropout_prob=c.activation_dropout, attention_probs_dropout_prob=c.attention_dropout)
    mixer = replace(attention_v2(own), formula="sew-d")
    layers = repeat("layer", c.num_hidden_layers, post_norm_layer(own, mixer))
    layers = replace(layers, captured=task(c) in CAPTURING)
    parts = tuple(part for part in (relative_table(own), layers) if part)
    encoder = DisentangledEncoder("encoder", parts, pairs=False)
    return _squeezing(c, "sew_d", (encoder,), captured=layers.captured)


def _squeezing(c: Dimensions, prefix: str, blocks: tuple[Block, ...], *, captured: bool) -> Model:
    """Narrow convolutions of the waveform, and an encoder that squeezes what they yield."""
    width, hidden = c.conv_dim[-1], c.hidden_size
    masked = c.mask_time_prob > 0 or c.mask_feature_prob > 0
    base = sequence(
        features(c), Flatten(""), Norm("layer_norm", width, "layer"),
        Linear("feature_projection", width, hidden, bias=True) if width != hidden else None,
        Dropout("", float(c.feat_proj_dropout)), Raw("masked_spec_embed", (hidden,)) if masked else None,
        _encoder(c, blocks, captured=captured),
    )  # fmt: skip
    heads = {name: head for name, head in speech_heads(c).items() if name in HEADS}
    return with_head(c, prefix, base, heads, kind="speech", context=0)


def _encoder(c: Dimensions, blocks: tuple[Block, ...], *, captured: bool) -> Sequence:
    hidden, factor, size = c.hidden_size, c.squeeze_factor, c.num_conv_pos_embeddings
    places = WeightNormConv(
        "pos_conv_embed.conv", hidden, hidden, (size,), factor, c.num_conv_pos_embedding_groups, padding=size // 2
    )
    spread: Block = Linear("upsample.projection", hidden, hidden * factor, bias=True)
    if captured and c.use_weighted_layer_sum:  # the head reads the layers' own states
        spread = Stray("", (spread,))
    return Squeezed("encoder", blocks, factor, places, spread, c.feat_extract_activation)
