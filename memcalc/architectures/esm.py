"""ESM: a pre-norm protein encoder with learned or rotary positions (Lin et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, feed_forward, norm, self_attention
from memcalc.architectures.heads import classification_head, labels, pooler, with_head
from memcalc.blocks.base import Block, Sequence, Sum, Unused, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Embedding, Linear, Raw, Scale

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("esm")
def esm(c: Dimensions) -> Model:
    """Norms before attention and feed-forward, and behind the last layer; a contact head that training leaves alone."""
    names = ("attention", "crossattention") if c.is_decoder and c.add_cross_attention else ("attention",)
    inner = feed_forward(c.but(hidden_act="gelu_python"))
    feed = residual(norm(c, "LayerNorm"), inner, dropout(c), named=(0,), within=True)
    layers = repeat("layer", c.num_hidden_layers, *(_mixer(c, name) for name in names), feed)
    head = c.hidden_size // c.num_attention_heads
    frequencies = Raw("rotary_embeddings.inv_freq", (head // 2,), buffer=True, dtype="fp32")
    base = sequence(
        _embeddings(c), frequencies if _rotary(c) else None, Sequence("encoder", (layers, norm(c, "emb_layer_norm_after"))),
        Unused("", (Linear("contact_head.regression", c.num_hidden_layers * c.num_attention_heads, 1, bias=True),)),
    )  # fmt: skip
    longest = 0 if _rotary(c) else c.max_position_embeddings - 2
    return with_head(c, "esm", base, _heads(c), (pooler(c, "pooler"),), context=longest)


def _rotary(c: Dimensions) -> bool:
    return bool(c.position_embedding_type == "rotary")


def _mixer(c: Dimensions, name: str) -> Block:
    rotated = c.hidden_size // c.num_attention_heads if _rotary(c) else 0
    mixer = self_attention(c, name, cross=name != "attention", rotary_dim=rotated, rotation="fp32", formula="esm")
    return residual(norm(c, f"{name}.LayerNorm"), mixer, dropout(c), named=(0,), within=True)


def _embeddings(c: Dimensions) -> Sequence:
    """Words (rescaled where `token_dropout` zeroes masked ones), positions unless rotary, a norm where asked for."""
    words: Block = Embedding("word_embeddings", c.vocab_size, c.hidden_size)
    places = Embedding("position_embeddings", c.max_position_embeddings, c.hidden_size, index="token-positions")
    if c.token_dropout:
        words = sequence(words, Scale(""))
    first = Sum("", (words, places)) if c.position_embedding_type == "absolute" else words
    return sequence(first, norm(c, "layer_norm") if c.get("emb_layer_norm_before") else None, name="embeddings")


def _heads(c: Dimensions) -> Heads:
    hidden = c.hidden_size
    tied = "esm.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    lm = sequence(
        Linear("dense", hidden, hidden, bias=True), Activation("", "gelu_python"), norm(c, "layer_norm"),
        Linear("decoder", hidden, c.vocab_size, tied_to=tied), Raw("bias", (c.vocab_size,)), name="lm_head",
    )  # fmt: skip
    return {
        "ForMaskedLM": (lm,),
        "ForSequenceClassification": (classification_head(c, dropout(c)),),
        "ForTokenClassification": (dropout(c), Linear("classifier", hidden, labels(c), bias=True)),
    }
