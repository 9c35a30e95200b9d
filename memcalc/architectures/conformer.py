"""Wav2Vec2-Conformer: conformer layers over wav2vec 2.0's convolutions (Wang et al. 2021, fairseq S2T)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import task, with_head
from memcalc.architectures.speech_heads import CAPTURING, adapter, speech_heads
from memcalc.architectures.wav2vec2 import features, position_conv, projection
from memcalc.architectures.wav2vec2_bert import layer
from memcalc.blocks.base import Stack, Unused, sequence
from memcalc.blocks.basic import Dropout, Raw
from memcalc.blocks.image import Flatten
from memcalc.blocks.seq2seq import Surrounded

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("wav2vec2-conformer")
def wav2vec2_conformer(c: Dimensions) -> Model:
    """The convolution for positions is there, but idle: positions are relative or rotary."""
    masked = c.mask_time_prob > 0 or c.mask_feature_prob > 0
    layers = Stack("layers", (layer(c, causal=False),) * c.num_hidden_layers, captured=task(c) in CAPTURING)
    before = sequence(Unused("", (position_conv(c),)), Dropout("", float(c.hidden_dropout)))
    encoder = Surrounded("encoder", (before, layers, layer_norm("layer_norm", c.hidden_size)))
    base = sequence(
        features(c), Flatten(""), projection(c), Raw("masked_spec_embed", (c.hidden_size,)) if masked else None,
        encoder, adapter(c),
    )  # fmt: skip
    return with_head(c, "wav2vec2_conformer", base, speech_heads(c), kind="speech", context=0)
