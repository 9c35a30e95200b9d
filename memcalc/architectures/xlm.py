"""XLM and FlauBERT: encoders of several languages, and of French (Lample & Conneau 2019, Le et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.electra import sequence_summary
from memcalc.architectures.heads import channels, kind, labels, task, with_head
from memcalc.architectures.seq2seq import dropout
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stack, Sum, Unused, sequence
from memcalc.blocks.basic import Activation, Embedding, Linear, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Fork
from memcalc.blocks.xlm import PartLists
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("xlm", "flaubert")
def xlm(c: Dimensions) -> Model:
    """Post-norm (FlauBERT large: pre-norm); an embedding of the language is there, and read where languages are given."""
    if c.asm:
        raise fault("model.asm", "an adaptive softmax is not known; set it to false")
    words = Embedding("embeddings", c.vocab_size, c.emb_dim)
    places = Embedding("position_embeddings", c.max_position_embeddings, c.emb_dim, index="positions")
    languages = Embedding("lang_embeddings", c.n_langs, c.emb_dim) if c.n_langs > 1 and c.use_lang_emb else None
    base = sequence(
        Sum("", (words, places)), Unused("", (languages,)) if languages else None, _norm(c, "layer_norm_emb"), dropout(c),
        _layers(c),
    )  # fmt: skip
    what = "masked-lm" if task(c) == "WithLMHeadModel" else kind(task(c))
    return with_head(c, "transformer", base, _heads(c), kind=what, loss_fp32=False)


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.emb_dim, "layer")


def _layers(c: Dimensions) -> PartLists:
    width, heads, count = c.emb_dim, c.n_heads, c.n_layers
    q, k, v, out = (Linear(f"{name}_lin", width, width, bias=True) for name in ("q", "k", "v", "out"))
    mixer = Attention(
        "", heads, heads, channels(width, heads, "n_heads"), q, k, v, out=out, causal=False,
        dropout=float(c.attention_dropout), eager_only=True, formula="xlm",
    )  # fmt: skip
    feed = Mlp(
        "", Linear("lin1", width, 4 * width, bias=True), Linear("lin2", 4 * width, width, bias=True),
        activation="gelu" if c.gelu_activation else "relu", width=4 * width,
    )  # fmt: skip
    return PartLists(
        "", Stack("attentions", (mixer,) * count), Stack("layer_norm1", (_norm(c, ""),) * count),
        Stack("ffns", (sequence(feed, dropout(c)),) * count), Stack("layer_norm2", (_norm(c, ""),) * count),
        float(c.dropout), bool(c.get("pre_norm", False)),
    )  # fmt: skip


def _heads(c: Dimensions) -> Heads:
    width, out = c.emb_dim, labels(c)
    tied = "transformer.embeddings.weight" if c.tie_word_embeddings else ""
    return {
        "WithLMHeadModel": (Linear("pred_layer.proj", width, c.vocab_size, bias=True, tied_to=tied),),
        "ForSequenceClassification": sequence_summary(c),
        "ForMultipleChoice": (*sequence_summary(c), Linear("logits_proj", out, 1, bias=True)),
        "ForTokenClassification": (dropout(c), Linear("classifier", width, out, bias=True)),
        "ForQuestionAnsweringSimple": (Linear("qa_outputs", width, out, bias=True),),
        "ForQuestionAnswering": (_answers(width),),
    }


def _answers(width: int) -> Block:
    """Logits of starts, of ends given a start, and of there being an answer (XLMSQuADHead)."""
    outputs = "qa_outputs"
    both, tanh = Linear("dense_0", 2 * width, width, bias=True), Activation("", "tanh")
    ends = (both, tanh, Norm("LayerNorm", width, "layer"), Linear("dense_1", width, 1, bias=True))
    starts = Linear(f"{outputs}.start_logits.dense", width, 1, bias=True)
    answer = (both, tanh, Linear("dense_1", width, 1))
    branches = (starts, Sequence(f"{outputs}.end_logits", ends), Sequence(f"{outputs}.answer_class", answer))
    return Fork("", branches)
