"""FSMT: Facebook's translators of WMT 2019 between two vocabularies, tokens before the batch (Ng et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import kind, task
from memcalc.architectures.seq2seq import attention, dropout, feed_forward, sublayer
from memcalc.blocks.base import Block, Sum, repeat, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.image import Axes
from memcalc.blocks.seq2seq import Decoder, Encoder
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("fsmt")
def fsmt(c: Dimensions) -> Model:
    """Post-norm layers; the scores of words are made within the decoder."""
    name = "Model" if task(c) == "MTModel" else task(c)  # FSMTModel
    if name not in ("Model", "ForConditionalGeneration"):
        raise fault("model.architectures", f"a fsmt with the head {name!r} is not known")
    prefix = "" if name == "Model" else "model."
    tied = f"{prefix}encoder.embed_tokens.weight" if c.tie_word_embeddings else ""
    scores = Linear("output_projection", c.d_model, c.tgt_vocab_size, tied_to=tied)
    body = (_encoder(c, f"{prefix}encoder"), _decoder(c, f"{prefix}decoder", tied, scores))
    what = "encoder" if name == "Model" else kind(name)
    return Model(sequence(*body), kind=what, context=c.max_position_embeddings, loss_fp32=False)


def _encoder(c: Dimensions, name: str) -> Encoder:
    mixer = attention(c, "self_attn", c.encoder_attention_heads, formula="fsmt")
    layer = (
        sublayer(c, mixer, "self_attn_layer_norm", pre_norm=False),
        sublayer(c, feed_forward(c, c.encoder_ffn_dim), "final_layer_norm", pre_norm=False),
    )
    layers = repeat("layers", c.encoder_layers, *layer)
    return Encoder(name, (*_embeddings(c, c.src_vocab_size, ""), layers, Axes("", (1, 0, 2))))


def _decoder(c: Dimensions, name: str, tied: str, scores: Linear) -> Decoder:
    heads = c.decoder_attention_heads
    mixer = attention(c, "self_attn", heads, causal=True, formula="fsmt")
    cross = attention(c, "encoder_attn", heads, cross=True, formula="fsmt")
    layer = (
        sublayer(c, mixer, "self_attn_layer_norm", pre_norm=False),
        sublayer(c, cross, "encoder_attn_layer_norm", pre_norm=False),
        sublayer(c, feed_forward(c, c.decoder_ffn_dim), "final_layer_norm", pre_norm=False),
    )
    layers = repeat("layers", c.decoder_layers, *layer)
    return Decoder(name, (*_embeddings(c, c.tgt_vocab_size, tied), layers, Axes("", (1, 0, 2)), scores))


def _embeddings(c: Dimensions, rows: int, tied: str) -> tuple[Block, ...]:
    """Words and positions, whose table of sinusoids learns as any other, then tokens before the batch."""
    words = Embedding("embed_tokens", rows, c.d_model, tied_to=tied, scaled_outside=True)
    places = Embedding(
        "embed_positions", c.max_position_embeddings + c.pad_token_id + 1, c.d_model, index="token-positions"
    )
    return Sum("", (words, places)), dropout(c), Axes("", (1, 0, 2))
