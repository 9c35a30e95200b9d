"""Longformer, LED and BigBird: BERT and BART whose attention is sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.bart import Style, seq2seq
from memcalc.architectures.encoder import dropout, embeddings, feed_forward, post_norm, post_norm_layer
from memcalc.architectures.heads import (
    channels,
    classification_head,
    classifier_dropout,
    labels,
    masked_lm,
    task,
    with_head,
)
from memcalc.architectures.seq2seq import encoder_layer
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stack, Unused, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Dropout, Linear, Select
from memcalc.blocks.seq2seq import Fork
from memcalc.blocks.sparse import CutBack, LocalGlobalAttention, PadToWindow

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


def _windows(c: Dimensions, layers: int) -> list[int]:
    """The window of each layer: one number for all, or a list."""
    given = c.attention_window
    return list(given) if isinstance(given, list) else [given] * layers


# heads that make tokens global if nobody says which: the first, or the question's (of unknown number: counted as one)
_GLOBAL = frozenset({"ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering"})


def _local_global(c: Dimensions, name: str, inner: str, out: str, window: int, tokens: int = 0) -> LocalGlobalAttention:
    hidden, heads = c.hidden_size, c.num_attention_heads

    def project(what: str) -> Linear:
        return Linear(f"{inner}.{what}", hidden, hidden, bias=True)

    return LocalGlobalAttention(
        name, heads, heads, channels(hidden, heads),
        q=project("query"), k=project("key"), v=project("value"), out=Linear(out, hidden, hidden, bias=True),
        q_global=project("query_global"), k_global=project("key_global"), v_global=project("value_global"),
        causal=False, window=window, dropout=float(c.attention_probs_dropout_prob), eager_only=True, formula="longformer",
        tokens=tokens,
    )  # fmt: skip


def _by_window(windows: list[int], layer: dict[int, Sequence], name: str) -> Stack:
    return stack(name, [layer[window] for window in windows])


@architecture("longformer")
def longformer(c: Dimensions) -> Model:
    """RoBERTa with windowed attention and global tokens (Beltagy et al. 2020)."""
    windows, tokens = _windows(c, c.num_hidden_layers), int(task(c) in _GLOBAL)
    mixers = {w: _local_global(c, "attention", "self", "output.dense", w, tokens) for w in set(windows)}
    layer = {window: post_norm_layer(c, mixer) for window, mixer in mixers.items()}
    layers = Sequence("encoder", (_by_window(windows, layer, "layer"),))
    words, hidden, drop = embeddings(c, positions="token-positions"), c.hidden_size, dropout(c)
    base = sequence(PadToWindow("", max(windows)), words, layers, CutBack(""))
    lm = masked_lm(c, "lm_head", "dense", "layer_norm", "longformer.embeddings.word_embeddings.weight")
    heads: Heads = {
        "ForMaskedLM": (lm,),
        "ForSequenceClassification": (classification_head(c, drop),),
        "ForMultipleChoice": (*_pooled(c, "longformer.pooler.dense"), drop, Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
    longest = c.max_position_embeddings - c.pad_token_id - 1
    return with_head(c, "longformer", base, heads, _pooled(c, "pooler.dense"), context=longest)


def _pooled(c: Dimensions, name: str) -> tuple[Block, ...]:
    """tanh(dense(first token))."""
    return (Select(""), Linear(name, c.hidden_size, c.hidden_size, bias=True), Activation("", "tanh"))


@architecture("led")
def led(c: Dimensions) -> Model:
    """BART with Longformer's attention in the encoder (Beltagy et al. 2020)."""
    windows = _windows(c, c.encoder_layers)
    names = ("self_attn", "longformer_self_attn", "output")
    layer = {w: encoder_layer(c, _local_global(c, *names, w), pre_norm=False) for w in set(windows)}
    style = Style(first_norm="layernorm_embedding", window=max(windows))
    context = c.max_encoder_position_embeddings
    return seq2seq(c, style, lambda: _by_window(windows, layer, "layers"), prefix="led", context=context)


@architecture("big_bird")
def big_bird(c: Dimensions) -> Model:
    """BERT with attention to blocks: local, global and random ones (Zaheer et al. 2020)."""
    cross = c.is_decoder and c.add_cross_attention
    layer = sequence(
        post_norm(c, _big_bird_attention(c, "attention"), "attention.output.LayerNorm"),
        post_norm(c, _big_bird_attention(c, "crossattention"), "crossattention.output.LayerNorm") if cross else None,
        post_norm(c, feed_forward(c), "output.LayerNorm"),
    )
    words = embeddings(c)
    summed, after, drop = words.blocks
    before = Sequence("embeddings", (summed, drop, after))  # the dropout stands before the norm
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer),))
    base = sequence(*padded_to_blocks(c, before, layers))
    return with_head(c, "bert", base, _big_bird_heads(c), _pooled(c, "pooler"))


def padded_to_blocks(c: Dimensions, *blocks: Block) -> tuple[Block, ...]:
    """The blocks over whole blocks of tokens, where attention is sparse and a sequence long enough for that."""
    if c.attention_type != "block_sparse":
        return blocks
    over = (5 + 2 * c.num_random_blocks) * c.block_size
    return PadToWindow("", c.block_size, over), *blocks, CutBack("")


def _big_bird_attention(c: Dimensions, name: str) -> Attention:
    """Block sparse where the config says so and nothing of a decoder stands against it (BigBirdAttention)."""
    hidden, heads, cross = c.hidden_size, c.num_attention_heads, name == "crossattention"
    sparse = c.attention_type == "block_sparse" and not (c.is_decoder and c.add_cross_attention)
    q, k, v = (Linear(f"self.{part}", hidden, hidden, bool(c.use_bias)) for part in ("query", "key", "value"))
    return Attention(
        name, heads, heads, channels(hidden, heads), q, k, v, out=Linear("output.dense", hidden, hidden, bias=True),
        causal=bool(c.is_decoder) and not cross, cross=cross,
        dropout=float(c.attention_probs_dropout_prob), softmax="scores", eager_only=True,
        window=c.block_size if sparse else 0, group=c.num_random_blocks if sparse else 0,
        padded=not sparse and not cross, formula="big-bird" if sparse else "big-bird-full",
    )  # fmt: skip


def _big_bird_heads(c: Dimensions) -> Heads:
    """BERT's heads; the pooler is there with all but one of them, and of use to two."""
    hidden, drop, pooled = c.hidden_size, classifier_dropout(c), _pooled(c, "bert.pooler")
    table = "bert.embeddings.word_embeddings.weight"
    lm = masked_lm(c, "cls.predictions", "transform.dense", "transform.LayerNorm", table, activation=c.hidden_act)
    beside = (Unused("", pooled),)
    order = sequence(*pooled, Linear("cls.seq_relationship", hidden, 2, bias=True))
    answers = sequence(
        post_norm(c, sequence(Dropout("", float(c.hidden_dropout_prob)), feed_forward(c)), "output.LayerNorm"),
        Linear("qa_outputs", hidden, 2, bias=True), name="qa_classifier",
    )  # fmt: skip
    return {
        "ForMaskedLM": (*beside, lm),
        "ForCausalLM": (*beside, lm),
        "ForPreTraining": (Fork("", (lm, order)),),
        "ForSequenceClassification": (*beside, classification_head(c, drop, c.hidden_act)),
        "ForMultipleChoice": (*pooled, drop, Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (*beside, drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (answers,),
    }
