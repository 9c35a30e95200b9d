"""ELECTRA: BERT with a narrower embedding, trained to tell replaced tokens from true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import embeddings, post_norm_layer
from memcalc.architectures.heads import classification_head, classifier_dropout, labels, with_head
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Norm, Select

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("electra")
def electra(c: Dimensions) -> Model:
    """BERT's layers over embeddings of `embedding_size`, projected to the hidden size (Clark et al. 2020)."""
    narrow, hidden = c.embedding_size, c.hidden_size
    project = Linear("embeddings_project", narrow, hidden, bias=True) if narrow != hidden else None
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    return with_head(c, "electra", sequence(embeddings(c, narrow), project, layers), _heads(c))


def _heads(c: Dimensions) -> Heads:
    drop, hidden, narrow = classifier_dropout(c), c.hidden_size, c.embedding_size
    tied = "electra.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    generator = sequence(
        Linear("dense", hidden, narrow, bias=True), Activation("", "gelu"), Norm("LayerNorm", narrow, "layer"),
        name="generator_predictions",
    )  # fmt: skip
    discriminator = sequence(
        Linear("dense", hidden, hidden, bias=True), Activation("", c.hidden_act),
        Linear("dense_prediction", hidden, 1, bias=True), name="discriminator_predictions",
    )  # fmt: skip
    lm = (generator, Linear("generator_lm_head", narrow, c.vocab_size, bias=True, tied_to=tied))
    return {
        "ForPreTraining": (discriminator,),
        "ForMaskedLM": lm,
        "ForCausalLM": lm,
        "ForSequenceClassification": (classification_head(c, drop, "gelu"),),
        "ForMultipleChoice": (*sequence_summary(c), Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }


def sequence_summary(c: Dimensions) -> tuple[Sequence, ...]:
    """One vector per sequence, projected as the config's summary_* keys say (ElectraSequenceSummary)."""
    width = labels(c) if c.get("summary_proj_to_labels") and labels(c) > 0 else c.hidden_size
    project = Linear("summary", c.hidden_size, width, bias=True) if c.get("summary_use_proj") else None
    activation = c.get("summary_activation")
    return (
        sequence(
            Select("", c.get("summary_type", "last")), Dropout("", float(c.get("summary_first_dropout", 0.0))), project,
            Activation("", activation) if activation else None,
            Dropout("", float(c.get("summary_last_dropout", 0.0))), name="sequence_summary",
        ),
    )  # fmt: skip
