"""GPT-2 and the models of its shape (GPT-3's sizes, DistilGPT-2, SantaCoder and StarCoder)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import activation, causal_lm, dropout, fused_attention, layer_norm, plain_mlp, tokens
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Unused, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, TransposedLinear
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gpt2", "gpt-sw3")
def gpt2(c: Dimensions) -> Model:
    """Pre-norm decoder with learned positions, LayerNorm and a plain MLP; weights stored transposed (Radford 2019)."""
    hidden, heads, width = c.hidden_size, c.num_attention_heads, c.get("n_inner") or 4 * c.hidden_size
    mixer = Attention(
        "attn", heads, heads, hidden // heads, dropout=float(c.attn_pdrop), softmax="values",
        formula="gpt2-upcast" if c.get("reorder_and_upcast_attn") else "",
        qkv=conv1d("c_attn", hidden, 3 * hidden), out=conv1d("c_proj", hidden, hidden),
    )  # fmt: skip
    up, down = conv1d("c_fc", hidden, width), conv1d("c_proj", width, hidden)
    return _gpt2(c, mixer, Mlp("mlp", up, down, activation=activation(c), width=width), _crossing(c))


@architecture("gpt_bigcode")
def gpt_bigcode(c: Dimensions) -> Model:
    """GPT-2 with ordinary linears and, as a rule, a single key/value head (Ben Allal et al. 2023, SantaCoder)."""
    kv = 1 if c.multi_query else c.num_attention_heads
    mixer = fused_attention(
        c, "attn", "c_attn", "c_proj", bias=True, kv_heads=kv, rotary_dim=0, dropout=float(c.attn_pdrop),
        formula="gpt_bigcode",
    )  # fmt: skip
    return _gpt2(c, mixer, plain_mlp(c, "c_fc", "c_proj", c.get("n_inner") or 4 * c.hidden_size))


def conv1d(name: str, inputs: int, outputs: int) -> TransposedLinear:
    """A linear with bias whose weight is [inputs, outputs] (transformers, pytorch_utils.Conv1D)."""
    return TransposedLinear(name, inputs, outputs, bias=True)


def _gpt2(c: Dimensions, mixer: Attention, mlp: Block, crossing: Block | None = None) -> Model:
    mixer = replace(mixer, out_dropout=float(c.resid_pdrop))
    layer = sequence(
        residual(layer_norm("ln_1", c.hidden_size), mixer, kept=True),
        crossing,
        residual(layer_norm("ln_2", c.hidden_size), mlp, dropout(c, "resid_pdrop"), kept=True),
    )
    return causal_lm(
        c,
        tokens(c, "wte"),
        Embedding("wpe", c.max_position_embeddings, c.hidden_size, index="positions"),
        dropout(c, "embd_pdrop"),
        repeat("h", c.num_hidden_layers, layer),
        layer_norm("ln_f", c.hidden_size),
        prefix="transformer", tie="wte", classifier="classifier",
    )  # fmt: skip


def _crossing(c: Dimensions) -> Block | None:
    """Cross-attention to an encoder's output; in a decoder of its own it is there, but idle."""
    if not c.add_cross_attention:
        return None
    hidden, heads = c.hidden_size, c.num_attention_heads
    if c.get("reads_encoder"):  # within an encoder-decoder
        both, query = conv1d("c_attn", hidden, 2 * hidden), conv1d("q_attn", hidden, hidden)
        out = conv1d("c_proj", hidden, hidden)
        mixer = Attention(
            "crossattention", heads, heads, hidden // heads, query, qkv=both, out=out, cross=True, causal=False,
            dropout=float(c.attn_pdrop), out_dropout=float(c.resid_pdrop), softmax="values", formula="gpt2-cross",
        )  # fmt: skip
        return residual(layer_norm("ln_cross_attn", hidden), mixer, kept=True)
    sizes = {"c_attn": 2 * hidden, "q_attn": hidden, "c_proj": hidden}
    inner = sequence(*(conv1d(name, hidden, size) for name, size in sizes.items()), name="crossattention")
    return Unused("", (layer_norm("ln_cross_attn", hidden), inner))


@architecture("openai-gpt")
def openai_gpt(c: Dimensions) -> Model:
    """GPT-1: post-norm, no final norm (Radford et al. 2018)."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    mixer = Attention(
        "attn", heads, heads, hidden // heads, dropout=float(c.attn_pdrop), qkv=conv1d("c_attn", hidden, 3 * hidden),
        out=conv1d("c_proj", hidden, hidden), formula="openai-gpt",
    )  # fmt: skip
    up, down = conv1d("c_fc", hidden, 4 * hidden), conv1d("c_proj", 4 * hidden, hidden)
    mlp = Mlp("mlp", up, down, activation={"gelu": "gelu_new"}.get(c.afn, c.afn), width=4 * hidden)
    layer = sequence(
        residual(mixer, dropout(c, "resid_pdrop")), layer_norm("ln_1", hidden),
        residual(mlp, dropout(c, "resid_pdrop")), layer_norm("ln_2", hidden),
    )  # fmt: skip
    positions = Embedding("positions_embed", c.max_position_embeddings, hidden, index="positions")
    layers = repeat("h", c.num_hidden_layers, layer)
    body = (tokens(c, "tokens_embed"), positions, dropout(c, "embd_pdrop"), layers)
    return causal_lm(c, *body, prefix="transformer", tie="tokens_embed")
