"""OPT: GPT-3's shape with ReLU; the 350M one is post-norm with narrow embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, dropout, plain_mlp
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

OFFSET = 2  # rows of the position table before position 0 (transformers, OPTLearnedPositionalEmbedding)


@architecture("opt")
def opt(c: Dimensions) -> Model:
    """Pre-norm (or post-norm) decoder with learned positions and a plain MLP (Zhang et al. 2022)."""
    hidden, narrow = c.hidden_size, c.get("word_embed_proj_dim") or c.hidden_size
    projected = narrow != hidden
    body = sequence(
        Embedding("embed_tokens", c.vocab_size, narrow),
        Linear("project_in", narrow, hidden) if projected else None,
        Embedding("embed_positions", c.max_position_embeddings + OFFSET, hidden, index="token-positions"),
        repeat("layers", c.num_hidden_layers, _layer(c)),
        _norm(c, "final_layer_norm") if c.do_layer_norm_before and not c.get("_remove_final_layer_norm") else None,
        Linear("project_out", hidden, narrow) if projected else None,
        name="decoder",
    )
    registered = ("project_out", "project_in", "final_layer_norm", "layers")
    return causal_lm(c, body, tie="decoder.embed_tokens", width=narrow, qa="model", registered=registered)


def _layer(c: Dimensions) -> Sequence:
    attend = attention(c, bias=c.enable_bias, out="out_proj", rotary_dim=0, formula="opt")
    mlp = plain_mlp(c, "fc1", "fc2", c.ffn_dim, name="", bias=c.enable_bias)
    mlp = replace(mlp, inline=True, stepwise=True)
    steps = (("self_attn_layer_norm", attend), ("final_layer_norm", mlp))
    return sequence(*(_step(c, _norm(c, name), block) for name, block in steps))


def _step(c: Dimensions, norm: Norm, block: Block) -> Block:
    """x + f(norm(x)) before, norm(x + f(x)) behind."""
    if c.do_layer_norm_before:
        return residual(norm, block, dropout(c, "dropout", functional=True), named=())
    return sequence(residual(block, dropout(c, "dropout", functional=True), named=()), norm)


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.hidden_size, "layer" if c.layer_norm_elementwise_affine else "none")
