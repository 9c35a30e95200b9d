"""T5 and its kin: pre-norm encoder-decoders with RMSNorm, relative position biases and no other bias."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import choose, kind, labels, task
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stack, residual, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, Scale, Select
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Decoder, Encoder, HalfClamp, Shared
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("t5", "mt5", "umt5", "longt5")
def t5(c: Dimensions) -> Model:
    """Encoder and decoder over one shared table; the first layer of each looks up the biases of all (Raffel 2019).

    The config class of transformers 5 sets tie_word_embeddings to true whatever the file says, but a checkpoint with a
    head of its own (v1.1, Flan, mT5, UMT5: `tie_word_embeddings: false`) keeps it; LongT5's have none of their own.
    """
    name, nested = task(c), task(c) in {"ForSequenceClassification", "ForTokenClassification"}
    prefix = "transformer." if nested else ""
    decoder = None if name in {"EncoderModel", "ForTokenClassification"} else _decoder(c, prefix)
    heads = _heads(c, tied=bool(c.tie_word_embeddings) or c.traits.ties_always)
    body = sequence(_table(c, prefix), _encoder(c, prefix), decoder, *choose(c, heads))
    return Model(body, kind="encoder" if name in {"Model", "EncoderModel"} else kind(name), loss_fp32=False)


def _scaled(c: Dimensions, *, tied: bool) -> bool:
    """As the config says, else with a tied table; mT5 never scales, UMT5 always does (modeling_mt5.py, modeling_umt5.py)."""
    own = c.traits.scale_decoder_outputs
    return bool(c.get("scale_decoder_outputs", tied)) if own is None else own


def _heads(c: Dimensions, *, tied: bool) -> Heads:
    """What each class adds; where `_scaled` the logits are made of hidden states scaled by 1 / √d_model."""
    head = Linear("lm_head", c.d_model, c.vocab_size, tied_to="shared.weight" if tied else "")
    with_lm = (Scale(""), head) if _scaled(c, tied=tied) else (head,)
    drop, out = Dropout("", float(c.classifier_dropout)), labels(c)
    dense, project = Linear("dense", c.d_model, c.d_model, bias=True), Linear("out_proj", c.d_model, out, bias=True)
    classify = sequence(
        Select("", "last"), drop, dense, Activation("", "tanh"), drop, project, name="classification_head"
    )
    return {
        "Model": (),
        "EncoderModel": (),
        "ForConditionalGeneration": with_lm,
        "WithLMHeadModel": with_lm,  # its name until 2020
        "ForSequenceClassification": (classify,),
        "ForTokenClassification": (drop, Linear("classifier", c.d_model, out, bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", c.d_model, out, bias=True),),
    }


def _table(c: Dimensions, prefix: str) -> Embedding:
    return Shared(f"{prefix}shared", c.vocab_size, c.d_model)


def _encoder(c: Dimensions, prefix: str) -> Encoder:
    return Encoder(f"{prefix}encoder", _stack(c, prefix, c.num_layers, decoder=False))


def _decoder(c: Dimensions, prefix: str) -> Decoder:
    return Decoder(f"{prefix}decoder", _stack(c, prefix, c.get("num_decoder_layers", c.num_layers), decoder=True))


def _stack(c: Dimensions, prefix: str, layers: int, *, decoder: bool) -> tuple[Block, ...]:
    """Dropout, layers, norm, dropout. UMT5 looks up a bias in every layer, the others in the first alone (T5Stack)."""
    words = Embedding("embed_tokens", c.vocab_size, c.d_model, tied_to=f"{prefix}shared.weight")
    first, rest = (_layer(c, decoder=decoder, table=table) for table in (True, c.traits.bias_per_layer))
    drop, every = Dropout("", float(c.dropout_rate)), [first, *[rest] * (layers - 1)]
    return (words, drop, Stack("block", tuple(every[:layers])), norm(c, "final_layer_norm"), drop)


def _layer(c: Dimensions, *, decoder: bool, table: bool) -> Sequence:
    """Self-attention, cross-attention in the decoder, feed-forward; each between a norm and a dropout (T5Block)."""
    parts: list[Block] = [_encoder_attention(c, table=table)]
    if decoder:
        parts = [attention(c, "SelfAttention", causal=True, table=table), attention(c, "EncDecAttention", cross=True)]
    drop = Dropout("", float(c.dropout_rate))
    return sequence(
        *(
            Sequence(
                f"layer.{index}", (residual(norm(c, "layer_norm"), part, drop, named=named), HalfClamp("", "tensors"))
            )
            for index, (part, named) in enumerate((*((part, (0, 1)) for part in parts), (_feed_forward(c), (1,))))
        )
    )


def norm(c: Dimensions, name: str) -> Norm:
    """T5LayerNorm: RMSNorm that is not cast back for fp32 weights."""
    return Norm(name, c.d_model, "rms", "t5")


def attention(c: Dimensions, name: str, *, causal: bool = False, cross: bool = False, table: bool = False) -> Attention:
    """heads * d_kv need not be d_model; scores are not scaled; a bias is added to them everywhere (T5Attention)."""
    heads, inner = c.num_heads, c.num_heads * c.d_kv
    padded = causal and c.traits.mask_per_sequence
    biases = Embedding("relative_attention_bias", c.relative_attention_num_buckets, heads, index="distances")
    return Attention(
        name, heads, heads, c.d_kv,
        q=Linear("q", c.d_model, inner), k=Linear("k", c.d_model, inner), v=Linear("v", c.d_model, inner),
        out=Linear("o", inner, c.d_model), causal=causal, cross=cross, dropout=float(c.dropout_rate),
        softmax="scores", scores_bias=True, padded=padded, bias_table=biases if table else None, own_bias=c.traits.bias_per_layer,
        eager_only=c.traits.eager_only,
    )  # fmt: skip


def _encoder_attention(c: Dimensions, *, table: bool) -> Attention:
    """LongT5's encoder sees blocks of `local_radius` + 1 tokens, their neighbours, and block summaries (Guo 2021)."""
    kind = c.get("encoder_attention_type")
    if kind is None:
        return attention(c, "SelfAttention", table=table)
    local = attention(c, "LocalSelfAttention" if kind == "local" else "TransientGlobalSelfAttention", table=table)
    summaries = (norm(c, "global_input_layer_norm"), *_global_table(c, table=table)) if kind != "local" else ()
    return replace(local, window=c.local_radius + 1, softmax="fp32", formula=f"longt5-{kind}", before=summaries,
                   group=int(c.get("global_block_size") or 16))  # fmt: skip


def _global_table(c: Dimensions, *, table: bool) -> tuple[Embedding, ...]:
    rows = c.relative_attention_num_buckets
    return (Embedding("global_relative_attention_bias", rows, c.num_heads, index="distances"),) if table else ()


def _feed_forward(c: Dimensions) -> Mlp:
    """wo(dropout(act(wi(x)))), or gated: wo(dropout(act(wi_0(x)) * wi_1(x))) (T5LayerFF)."""
    gated, _, function = str(c.feed_forward_proj).rpartition("-")
    activation = "gelu_new" if c.feed_forward_proj == "gated-gelu" else function
    return Mlp(
        "DenseReluDense",
        gate=Linear("wi_0", c.d_model, c.d_ff) if gated else None,
        up=Linear("wi_1" if gated else "wi", c.d_model, c.d_ff),
        down=Linear("wo", c.d_ff, c.d_model),
        activation=activation, width=c.d_ff, dropout=float(c.dropout_rate), widens=True,
    )  # fmt: skip
