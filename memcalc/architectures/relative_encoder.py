"""XLNet and Funnel: encoders with Transformer-XL's relative attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.electra import sequence_summary
from memcalc.architectures.heads import labels, task, with_head
from memcalc.blocks.base import Block, Param, PostNorm, Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, Raw, Select
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.relative import Pooled, RelativeAttention, TokensFirst, Unpooled
from memcalc.blocks.seq2seq import Fork

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.d_model, "layer")


@architecture("xlnet")
def xlnet(c: Dimensions) -> Model:
    """Post-norm layers over two-way contexts (Yang et al. 2019); fine-tuning runs the content stream alone."""
    drop = Dropout("", float(c.dropout))
    up, down = Linear("layer_1", c.d_model, c.d_inner, bias=True), Linear("layer_2", c.d_inner, c.d_model, bias=True)
    mlp = Mlp("ff", up, down, activation=c.ff_activation, width=c.d_inner, dropout=float(c.dropout))
    layer = sequence(
        PostNorm("", (_xlnet_attention(c), drop), _norm(c, "rel_attn.layer_norm")),
        PostNorm("", (mlp, drop), _norm(c, "ff.layer_norm")),
    )
    words = (Embedding("word_embedding", c.vocab_size, c.d_model), Raw("mask_emb", (1, 1, c.d_model), dtype="fp32"))
    base = sequence(
        TokensFirst("", (*words, drop, repeat("layer", c.n_layer, layer), drop), causal=c.attn_type == "uni")
    )
    tied = "transformer.word_embedding.weight" if c.tie_word_embeddings else ""
    heads: Heads = {
        "LMHeadModel": (Linear("lm_loss", c.d_model, c.vocab_size, bias=True, tied_to=tied),),
        "ForSequenceClassification": (*sequence_summary(c), Linear("logits_proj", c.d_model, labels(c), bias=True)),
        "ForMultipleChoice": (*sequence_summary(c), Linear("logits_proj", c.d_model, 1, bias=True)),
        "ForTokenClassification": (Linear("classifier", c.d_model, labels(c), bias=True),),
        "ForQuestionAnswering": (_xlnet_answers(c),),
        "ForQuestionAnsweringSimple": (Linear("qa_outputs", c.d_model, labels(c), bias=True),),
    }
    return with_head(c, "transformer", base, heads, context=0, loss_fp32=False)


def _xlnet_answers(c: Dimensions) -> Fork:
    """Logits of starts, of ends given a start, and of there being an answer (SQuAD 2)."""
    hidden = c.d_model
    both, tanh = Linear("dense_0", 2 * hidden, hidden, bias=True), Activation("", "tanh")
    ends = (both, tanh, _norm(c, "LayerNorm"), Linear("dense_1", hidden, 1, bias=True))
    answer = (both, tanh, Linear("dense_1", hidden, 1))
    starts = Linear("start_logits.dense", hidden, 1, bias=True)
    return Fork("", (starts, Sequence("end_logits", ends), Sequence("answer_class", answer)))


def _xlnet_attention(c: Dimensions) -> RelativeAttention:
    """Projections are parameters [d_model, heads, head]; the biases of contents, positions and segments are apart.

    All of them are made as torch.FloatTensor, which they stay whatever dtype the model is loaded in.
    """
    heads, head = c.n_head, c.get("d_head", c.d_model // c.n_head)
    projections = tuple(Param(name, (c.d_model, heads, head), dtype="fp32") for name in "qkvor")
    biases = tuple(Param(f"r_{name}_bias", (heads, head), dtype="fp32") for name in "rsw")
    segments = Param("seg_embed", (2, heads, head), dtype="fp32")
    return RelativeAttention(
        "rel_attn", heads, heads, head, causal=False, dropout=float(c.dropout), softmax="scores", eager_only=True,
        extra=(*projections, *biases, segments), formula="xlnet",
    )  # fmt: skip


@architecture("funnel")
def funnel(c: Dimensions) -> Model:
    """Blocks of layers between which tokens are pooled; a small decoder brings them back (Dai et al. 2020)."""
    words = sequence(
        Embedding("word_embeddings", c.vocab_size, c.d_model), _norm(c, "layer_norm"),
        Dropout("", float(c.hidden_dropout)), name="embeddings",
    )  # fmt: skip
    layer = _funnel_layer(c)
    how: dict[str, Any] = {
        "queries_only": c.pool_q_only, "apart": c.separate_cls, "cut": c.truncate_seq, "width": c.d_model,
        "factorized": c.attention_type == "factorized", "dropout": float(c.hidden_dropout), "pooling": c.pooling_type,
    }  # fmt: skip
    again = c.get("block_repeats") or [1] * len(c.block_sizes)
    stacks = tuple(
        replace(repeat(str(index), size, layer), shared=times)
        for index, (size, times) in enumerate(zip(c.block_sizes, again, strict=True))
    )
    short = task(c) in {"BaseModel", "ForSequenceClassification", "ForMultipleChoice"}
    encoder = Pooled("encoder.blocks", stacks, kept=not short, **how)
    layers = repeat("layers", c.num_decoder_layers, layer)
    decoder = None if short else Unpooled("decoder", (layers,), times=2 ** (len(c.block_sizes) - 1), **how)
    return with_head(c, "funnel", sequence(words, encoder, decoder), _funnel_heads(c), context=0)


def _funnel_layer(c: Dimensions) -> Sequence:
    drop = Dropout("", float(c.hidden_dropout))
    up, down = Linear("linear_1", c.d_model, c.d_inner, bias=True), Linear("linear_2", c.d_inner, c.d_model, bias=True)
    mlp = Mlp("ffn", up, down, activation=c.hidden_act, width=c.d_inner, dropout=float(c.activation_dropout))
    return sequence(
        PostNorm("", (_funnel_attention(c), drop), _norm(c, "attention.layer_norm")),
        PostNorm("", (mlp, drop), _norm(c, "ffn.layer_norm")),
    )  # fmt: skip


def _funnel_attention(c: Dimensions) -> RelativeAttention:
    heads, head, hidden = c.n_head, c.d_head, c.d_model
    biases = tuple(Param(f"r_{name}_bias", (heads, head)) for name in "wrs")
    return RelativeAttention(
        "attention", heads, heads, head,
        q=Linear("q_head", hidden, heads * head),
        k=Linear("k_head", hidden, heads * head, bias=True),
        v=Linear("v_head", hidden, heads * head, bias=True),
        out=Linear("post_proj", heads * head, hidden, bias=True),
        extra=(*biases, Param("r_kernel", (hidden, heads, head)), Param("seg_embed", (2, heads, head))),
        causal=False, dropout=float(c.attention_dropout), softmax="scores", eager_only=True,
        factorized=c.attention_type == "factorized", formula="funnel",
    )  # fmt: skip


def _funnel_heads(c: Dimensions) -> Heads:
    hidden, drop, out = c.d_model, Dropout("", float(c.hidden_dropout)), labels(c)
    tied = "funnel.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    found = sequence(
        Linear("dense", hidden, hidden, bias=True), Activation("", c.hidden_act),
        Linear("dense_prediction", hidden, 1, bias=True), name="discriminator_predictions",
    )  # fmt: skip

    def classify(outputs: int) -> tuple[Block, ...]:
        dense = Linear("linear_hidden", hidden, hidden, bias=True)
        head = (dense, Activation("", "tanh"), drop, Linear("linear_out", hidden, outputs, bias=True))
        return (Select(""), Sequence("classifier", head))

    return {
        "ForPreTraining": (found,),
        "ForMaskedLM": (Linear("lm_head", hidden, c.vocab_size, bias=True, tied_to=tied),),
        "ForSequenceClassification": classify(out),
        "ForMultipleChoice": classify(1),
        "ForTokenClassification": (drop, Linear("classifier", hidden, out, bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, out, bias=True),),
    }
