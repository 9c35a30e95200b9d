"""Dia: speech from text, an encoder of bytes and a decoder of the nine codebooks of a codec (Nari Labs 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, fused_gated_mlp, rms
from memcalc.architectures.heads import choose, kind, task
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.channels import ChannelEmbedding, ChannelLogits
from memcalc.blocks.seq2seq import Decoder, Encoder
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions

_REGISTERED = ("self_attention", "cross_attention", "pre_sa_norm", "pre_ca_norm", "pre_mlp_norm", "mlp")  # in a layer


@architecture("dia")
def dia(c: Dimensions) -> Model:
    """Llama's layers on both sides; logits of every codebook are scored by themselves, as masked tokens are."""
    prefix, d = "" if task(c) == "Model" else "model.", c.nested("decoder_config")
    base = (_encoder(c.nested("encoder_config"), f"{prefix}encoder"), _decoder(d, f"{prefix}decoder"))
    head = Linear("logits_dense", d.hidden_size, d.num_channels * d.vocab_size)
    heads: Heads = {"Model": (), "ForConditionalGeneration": (head, ChannelLogits("", d.num_channels))}
    what = "encoder" if task(c) == "Model" else kind(task(c))
    return Model(sequence(*base, *choose(c, heads)), kind=what, context=d.max_position_embeddings)


def _encoder(c: Dimensions, name: str) -> Encoder:
    mixer = attention(c, "self_attention", causal=False)
    layer = (_added(c, "pre_sa_norm", mixer), _added(c, "post_sa_norm", fused_gated_mlp(c)))
    words = Embedding("embedding", c.vocab_size, c.hidden_size)
    return Encoder(name, (words, repeat("layers", c.num_hidden_layers, *layer), rms("norm", c.hidden_size)))


def _decoder(c: Dimensions, name: str) -> Decoder:
    """It always makes a mask of padding."""
    mixer = attention(c, "self_attention", padded=True, formula="dia")
    layer = (
        _added(c, "pre_sa_norm", mixer), _added(c, "pre_ca_norm", _crossing(c)),
        _added(c, "pre_mlp_norm", fused_gated_mlp(c)),
    )  # fmt: skip
    codes = ChannelEmbedding("embeddings.embed", c.vocab_size * c.num_channels, c.hidden_size)
    layers = repeat("layers", c.num_hidden_layers, *layer)
    blocks = (codes, layers, rms("norm", c.hidden_size))
    return Decoder(name, blocks, channels=c.num_channels, registered=_REGISTERED)


def _crossing(c: Dimensions) -> Attention:
    """Of another width and other heads; not rotated."""
    heads, kv, head = c.cross_num_attention_heads, c.cross_num_key_value_heads, c.cross_head_dim
    plain = attention(
        c.but(num_attention_heads=heads, num_key_value_heads=kv, head_dim=head), "cross_attention", causal=False,
        cross=True, rotary_dim=0,
    )  # fmt: skip
    keys, values = (Linear(name, c.cross_hidden_size, kv * head) for name in ("k_proj", "v_proj"))
    return replace(plain, k=keys, v=values)


def _added(c: Dimensions, norm: str, block: Block) -> Block:
    return residual(rms(norm, c.hidden_size), block, renamed=True, lasting=(1,))
