"""ChatGLM 2 and 3, GLM-4-9B before transformers had it (modeling_chatglm.py beside their weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import dropout, rms
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.mlp import Mlp
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence
    from memcalc.dimensions import Dimensions


@architecture("chatglm")
def chatglm(c: Dimensions) -> Model:
    """Pre-norm decoder with half-rotated multi-query attention and a fused gate; the head is part of the base model."""
    hidden, vocab = c.hidden_size, c.padded_vocab_size
    encoder = sequence(repeat("layers", c.num_layers, _layer(c)), rms("final_layernorm", hidden), name="encoder")
    embedding = sequence(Embedding("word_embeddings", vocab, hidden), name="embedding")
    head = Linear("output_layer", hidden, vocab, c.add_bias_linear)
    return Model(sequence(sequence(embedding, encoder, head, name="transformer")), context=c.seq_length)


def _layer(c: Dimensions) -> Sequence:
    hidden, width, bias = c.hidden_size, c.ffn_hidden_size, c.add_bias_linear
    up, down = Linear("dense_h_to_4h", hidden, 2 * width, bias), Linear("dense_4h_to_h", width, hidden, bias)
    mlp = Mlp("mlp", up, down, fused=True, activation="silu", width=width)
    return sequence(
        residual(rms("input_layernorm", hidden), _attention(c), dropout(c, "hidden_dropout", functional=True)),
        residual(rms("post_attention_layernorm", hidden), mlp, dropout(c, "hidden_dropout", functional=True)),
    )


def _attention(c: Dimensions) -> Attention:
    heads, dim, hidden, bias = c.num_attention_heads, c.kv_channels, c.hidden_size, c.add_bias_linear
    kv = c.multi_query_group_num if c.multi_query_attention else heads
    return Attention(
        "self_attention", heads, kv, dim, rotary_dim=dim // 2, dropout=float(c.attention_dropout),
        qkv=Linear("query_key_value", hidden, (heads + 2 * kv) * dim, bias or c.add_qkv_bias),
        out=Linear("dense", heads * dim, hidden, bias), formula="chatglm",
    )  # fmt: skip
