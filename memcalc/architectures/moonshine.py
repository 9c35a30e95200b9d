"""Moonshine: an encoder-decoder with rotary positions over convolutions of the raw waveform (Jeffries et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import choose, kind, task
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm
from memcalc.blocks.image import Flatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Decoder, Encoder
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("moonshine")
def moonshine(c: Dimensions) -> Model:
    """Pre-norm, LayerNorm without bias; the decoder's feed-forward is gated. The source is samples of the waveform."""
    prefix = "" if task(c) == "Model" else "model."
    tied = f"{prefix}decoder.embed_tokens.weight" if c.tie_word_embeddings else ""
    head = Linear("proj_out", c.hidden_size, c.vocab_size, tied_to=tied)
    base = (_encoder(c, f"{prefix}encoder"), _decoder(c, f"{prefix}decoder"))
    heads: Heads = {"Model": (), "ForConditionalGeneration": (head,)}
    what = "encoder" if task(c) == "Model" else kind(task(c))
    return Model(sequence(*base, *choose(c, heads)), kind=what)


def _encoder(c: Dimensions, name: str) -> Encoder:
    hidden, heads = c.hidden_size, c.encoder_num_attention_heads
    layer = sequence(
        residual(_norm(c, "input_layernorm"), _attention(c, "self_attn", heads, c.get("encoder_num_key_value_heads"))),
        residual(_norm(c, "post_attention_layernorm"), _mlp(c, c.encoder_hidden_act)),
    )
    front: tuple[Block, ...] = (
        Conv("conv1", 1, hidden, (127,), 64, bias=False, embeds=True), Activation("", "tanh"),
        Norm("groupnorm", hidden, "group", groups_of=1),
        # each convolution in one line with what comes behind it: what it reads has its name until then
        Sequence("", (Conv("conv2", hidden, 2 * hidden, (7,), 3), Activation("", "gelu"))),
        Sequence("", (Conv("conv3", 2 * hidden, hidden, (3,), 2), Activation("", "gelu"))),
    )  # fmt: skip
    layers = repeat("layers", c.encoder_num_hidden_layers, layer)
    return Encoder(name, (*front, Flatten(""), layers, _norm(c, "layer_norm")), source=(1, 0))


def _decoder(c: Dimensions, name: str) -> Decoder:
    """Building the encoder's attention sets the decoder's heads to the same numbers (MoonshineAttention.__init__)."""
    heads, kv = c.encoder_num_attention_heads, c.get("encoder_num_key_value_heads")
    layer = sequence(
        residual(_norm(c, "input_layernorm"), _attention(c, "self_attn", heads, kv, causal=True)),
        residual(_norm(c, "post_attention_layernorm"), _attention(c, "encoder_attn", heads, kv, cross=True)),
        residual(_norm(c, "final_layernorm"), _mlp(c, c.decoder_hidden_act, gated=True)),
    )
    words = Embedding("embed_tokens", c.vocab_size, c.hidden_size)
    return Decoder(name, (words, repeat("layers", c.decoder_num_hidden_layers, layer), _norm(c, "norm")))


def _norm(c: Dimensions, name: str) -> Norm:
    return layer_norm(name, c.hidden_size, bias=False)


def _attention(
    c: Dimensions, name: str, heads: int, kv_heads: int | None, *, causal: bool = False, cross: bool = False
) -> Attention:
    """Rotary in self-attention, over 0.9 of a head unless the config says otherwise; the output has no bias."""
    hidden, bias = c.hidden_size, bool(c.attention_bias)
    head, kv = int(c.get("head_dim", hidden // heads)), kv_heads or heads
    return Attention(
        name, heads, kv, head,
        q=Linear("q_proj", hidden, heads * head, bias), k=Linear("k_proj", hidden, kv * head, bias),
        v=Linear("v_proj", hidden, kv * head, bias), out=Linear("o_proj", heads * head, hidden),
        causal=causal, cross=cross, dropout=float(c.attention_dropout),
        rotary_dim=0 if cross else int(head * c.get("partial_rotary_factor", 0.9)),
    )  # fmt: skip


def _mlp(c: Dimensions, activation: str, *, gated: bool = False) -> Mlp:
    width = c.intermediate_size
    up = Linear("fc1", c.hidden_size, 2 * width if gated else width, bias=True)
    down = Linear("fc2", width, c.hidden_size, bias=True)
    return Mlp("mlp", up=up, down=down, fused=gated, activation=activation, width=width)
