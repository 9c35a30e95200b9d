"""ModernBERT as a decoder (Ettin): causal, with a dense layer and a norm ahead of the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, dropout, interleaved, layer_kinds, layer_norm, tokens
from memcalc.architectures.heads import labels, with_head
from memcalc.blocks.base import Block, residual, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Norm, Select
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("modernbert-decoder")
def modernbert_decoder(c: Dimensions) -> Model:
    """Every third layer global, the first without a norm ahead of its attention (Weller et al. 2025)."""
    every = c.get("global_attn_every_n_layers", 3)
    kinds = layer_kinds(c, lambda i: "sliding_attention" if i % every else "full_attention")
    layers = interleaved("layers", [(kind, i == 0) for i, kind in enumerate(kinds)], lambda kind: _layer(c, *kind))
    embeddings = sequence(
        tokens(c, "tok_embeddings"), _norm(c, "norm"), dropout(c, "embedding_dropout"), name="embeddings"
    )
    table = "model.embeddings.tok_embeddings.weight" if c.tie_word_embeddings else ""
    heads: dict[str, tuple[Block, ...]] = {
        "ForCausalLM": (_head(c, "lm_head"), Linear("decoder", c.hidden_size, c.vocab_size, c.decoder_bias, table)),
        "ForSequenceClassification": (
            _head(c, "head"), Dropout("", float(c.get("classifier_dropout") or 0.0)),
            Linear("classifier", c.hidden_size, labels(c), c.classifier_bias), Select("", "last"),
        ),
    }  # fmt: skip
    return with_head(c, "model", sequence(embeddings, layers, _norm(c, "final_norm")), heads)


def _layer(c: Dimensions, kind: str, first: bool) -> Block:
    seen = c.local_attention // 2 if kind == "sliding_attention" and c.get("local_attention") else 0
    tables = f"each {kind}"  # of every sequence, for every kind of layers
    mixer = attention(c.but(head_dim=None), "attn", bias=c.attention_bias, out="Wo", window=seen, rotary_kind=tables)
    return sequence(
        residual(None if first else _norm(c, "attn_norm"), mixer, dropout(c, "attention_dropout")),
        residual(_norm(c, "mlp_norm"), _mlp(c)),
    )


def _mlp(c: Dimensions) -> Mlp:
    width, bias = c.intermediate_size, c.mlp_bias
    up, down = Linear("Wi", c.hidden_size, 2 * width, bias), Linear("Wo", width, c.hidden_size, bias)
    return Mlp("mlp", up, down, fused=True, activation=c.hidden_activation, width=width, dropout=float(c.mlp_dropout))


def _norm(c: Dimensions, name: str) -> Norm:
    return layer_norm(name, c.hidden_size, bias=c.norm_bias)


def _head(c: Dimensions, name: str) -> Block:
    """norm(act(dense(x))) (ModernBertDecoderPredictionHead)."""
    dense = Linear("dense", c.hidden_size, c.hidden_size, c.classifier_bias)
    return sequence(dense, Activation("", c.get("classifier_activation", "gelu")), _norm(c, "norm"), name=name)
