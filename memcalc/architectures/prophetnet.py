"""ProphetNet: an encoder-decoder that predicts the next n tokens at once (Qi et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels, choose, task
from memcalc.architectures.seq2seq import dropout
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Sum, Unused, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.prophetnet import StreamAttention, StreamLogits, Streams, TakeStreams
from memcalc.blocks.seq2seq import Decoder, Encoder, Shared
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("prophetnet")
def prophetnet(c: Dimensions) -> Model:
    """Post-norm; the decoder runs a stream per predicted token, with relative positions made from its hidden states."""
    name = task(c)
    prefix = "" if name in {"Model", "Encoder", "Decoder"} else "prophetnet."
    table = f"{prefix}word_embeddings.weight" if c.tie_word_embeddings else ""
    shared: Block = Shared(f"{prefix}word_embeddings", c.vocab_size, c.hidden_size)
    shared = shared if table else Unused("", (shared,))
    if name in {"Encoder", "Decoder"}:
        alone = _encoder(c, "") if name == "Encoder" else _decoder(c, "")
        return Model(sequence(*alone), kind="encoder", context=c.max_position_embeddings)
    encoder = None if name == "ForCausalLM" else Encoder(f"{prefix}encoder", _encoder(c, table))
    decoder = Decoder(f"{prefix}decoder", _decoder(c, table, ahead=bool(prefix)))
    head = Linear("lm_head", c.hidden_size, c.vocab_size, tied_to=table)
    lm = (head, StreamLogits("", c.ngram))
    heads: Heads = {"Model": (), "ForConditionalGeneration": lm, "ForCausalLM": lm}
    body = sequence(shared, encoder, decoder, *choose(c, heads))
    return Model(body, kind="seq2seq" if prefix else "encoder", context=c.max_position_embeddings, loss_fp32=True)


def _tables(c: Dimensions, tied_to: str) -> tuple[Embedding, Embedding]:
    words = Embedding("word_embeddings", c.vocab_size, c.hidden_size, tied_to=tied_to)
    return words, Embedding("position_embeddings", c.max_position_embeddings, c.hidden_size, index="token-positions")


def _encoder(c: Dimensions, tied_to: str) -> tuple[Block, ...]:
    mixer = _attention(c, "self_attn", c.num_encoder_attention_heads)
    layer = sequence(_post_norm(c, mixer), _post_norm(c, _feed_forward(c, c.encoder_ffn_dim)))
    words = (Sum("", _tables(c, tied_to)), _norm(c, "embeddings_layer_norm"), dropout(c))
    return (*words, repeat("layers", c.num_encoder_layers, layer))


def _decoder(c: Dimensions, tied_to: str, *, ahead: bool = False) -> tuple[Block, ...]:
    """The first stream reads the target, `ngram` more predict from embeddings of how far ahead they look."""
    heads = c.num_decoder_attention_heads
    biases = Linear("relative_pos_embeddings", c.hidden_size, c.num_buckets * heads, bias=True)
    mixer = _streams_attention(c, heads, biases)
    cross = _attention(c, "cross_attn", heads, cross=True)
    layer = sequence(
        _post_norm(c, mixer), _post_norm(c, cross) if c.add_cross_attention else None,
        _post_norm(c, _feed_forward(c, c.decoder_ffn_dim)),
    )  # fmt: skip
    table = Embedding("ngram_embeddings", c.ngram, c.hidden_size, index="types")
    before = Streams("", table, *_tables(c, tied_to), heads)
    layers = repeat("layers", c.num_decoder_layers, layer)
    return (before, _norm(c, "embeddings_layer_norm"), dropout(c), layers, TakeStreams("", c.ngram, ahead))


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.hidden_size, "layer")


def _post_norm(c: Dimensions, block: Attention | Mlp) -> Sequence:
    """norm(x + f(x)), where f(x), its dropout included, keeps its name as long as the layer runs."""
    after = () if isinstance(block, Attention) else (dropout(c),)
    return sequence(residual(block, *after, lasting=(len(after),)), _norm(c, f"{block.name}_layer_norm"))


def _feed_forward(c: Dimensions, width: int) -> Mlp:
    up, down = (
        Linear("intermediate", c.hidden_size, width, bias=True),
        Linear("output", width, c.hidden_size, bias=True),
    )
    drop = float(c.activation_dropout)
    return Mlp("feed_forward", up, down, activation=c.activation_function, width=width, dropout=drop, functional=True)


def _attention(c: Dimensions, name: str, heads: int, *, cross: bool = False) -> Attention:
    """Multi-head attention, with a dropout of what it yields."""
    return Attention(
        name, causal=False, cross=cross, formula="prophetnet", **_same(c, heads, "decoder" if cross else "encoder")
    )


def _streams_attention(c: Dimensions, heads: int, biases: Linear) -> StreamAttention:
    """The same of all streams, with biases of the scores that are projected from the hidden states."""
    return StreamAttention(
        "self_attn", bias_table=biases, streams=c.ngram, formula="prophetnet-streams", **_same(c, heads, "decoder")
    )


def _same(c: Dimensions, heads: int, side: str) -> dict[str, Any]:
    hidden = c.hidden_size
    projections = {name[0]: Linear(f"{name}_proj", hidden, hidden, bias=True) for name in ("query", "key", "value")}
    return {
        **projections, "out": Linear("out_proj", hidden, hidden, bias=True), "heads": heads, "kv_heads": heads,
        "head_dim": channels(hidden, heads, f"num_{side}_attention_heads"), "dropout": float(c.attention_dropout),
        "out_dropout": float(c.dropout), "softmax": "scores", "eager_only": True,
    }  # fmt: skip
