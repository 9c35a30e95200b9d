"""Decoders from fairseq: XGLM and BioGPT, pre-norm with learned or sinusoidal positions and scaled embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, dropout, layer_norm, plain_mlp
from memcalc.blocks.base import Block, Unused, repeat, residual, sequence
from memcalc.blocks.basic import Embedding
from memcalc.blocks.seq2seq import Sinusoids

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

OFFSET = 2  # rows of the position table before position 0


@architecture("xglm")
def xglm(c: Dimensions) -> Model:
    """Multilingual GPT whose positions are computed (Lin et al. 2021)."""
    layers = repeat("layers", c.num_hidden_layers, _layer(c, c.ffn_dim, "attention_dropout", "dropout", formula="xglm"))
    positions = residual(Sinusoids("embed_positions", c.max_position_embeddings + OFFSET, c.hidden_size, shared=True))
    body = (
        _tokens(c),
        positions,
        dropout(c, "dropout", functional=True),
        layers,
        layer_norm("layer_norm", c.hidden_size),
    )
    return causal_lm(c, *body, tie="embed_tokens")


@architecture("biogpt")
def biogpt(c: Dimensions) -> Model:
    """Biomedical GPT with learned positions (Luo et al. 2022)."""
    drops = ("attention_probs_dropout_prob", "hidden_dropout_prob")
    return causal_lm(
        c,
        _tokens(c),
        Embedding("embed_positions", c.max_position_embeddings + OFFSET, c.hidden_size, index="positions"),
        dropout(c, "hidden_dropout_prob", functional=True),
        repeat("layers", c.num_hidden_layers, _layer(c, c.intermediate_size, *drops, stepwise=True, padded=True)),
        layer_norm("layer_norm", c.hidden_size),
        prefix="biogpt", tie="embed_tokens", head="output_projection", classifier="classifier",
    )  # fmt: skip


def _tokens(c: Dimensions) -> Embedding:
    """A table whose module multiplies what was read, by 1 where `scale_embedding` is off."""
    return Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)


def _layer(c: Dimensions, width: int, scores: str, hidden: str, *, stepwise: bool = False, **more: Any) -> Block:  # noqa: ANN401 - fields of Attention
    """One layer; `scores` and `hidden` are the keys of its dropout probabilities; `stepwise` as in Mlp."""
    p = float(c.get(scores) or 0.0)
    drop = float(c.get("activation_dropout") or 0.0)
    mlp = replace(
        plain_mlp(c, "fc1", "fc2", width, name=""), dropout=drop, inline=True, stepwise=stepwise, functional=True
    )
    mixer = attention(c, bias=True, out="out_proj", rotary_dim=0, dropout=p, softmax="scores", **more)
    return sequence(
        residual(
            layer_norm("self_attn_layer_norm", c.hidden_size), mixer, dropout(c, hidden, functional=True), named=()
        ),
        _crossing(c),
        residual(layer_norm("final_layer_norm", c.hidden_size), mlp, dropout(c, hidden, functional=True), named=()),
    )


def _crossing(c: Dimensions) -> Block | None:
    """Cross-attention that waits for an encoder's output: there, but idle in a decoder of its own."""
    if not c.get("add_cross_attention"):
        return None
    mixer = attention(c, "encoder_attn", bias=True, out="out_proj", rotary_dim=0, cross=True)
    return Unused("", (mixer, layer_norm("encoder_attn_layer_norm", c.hidden_size)))
