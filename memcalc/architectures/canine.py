"""CANINE: BERT on characters, four of which make a molecule (Clark et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, norm, post_norm_layer, self_attention
from memcalc.architectures.heads import labels, pooler, task, with_head
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear
from memcalc.blocks.canine import Characters, HashedEmbeddings, Molecules, Rejoined
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

HASHES = 16  # primes that the library has


@architecture("canine")
def canine(c: Dimensions) -> Model:
    """A local layer over characters, layers over molecules, and a layer over characters that know theirs."""
    hidden, rate, size = c.hidden_size, c.downsampling_rate, c.upsampling_kernel_size
    act = Activation("", c.hidden_act)
    body = Characters(
        "",
        _embeddings(c),
        _encoder(c, "initial_char_encoder", 1, local=True),
        Molecules("chars_to_molecules", Conv("conv", hidden, hidden, (rate,), rate), act, norm(c, "LayerNorm")),
        _encoder(c, "encoder", c.num_hidden_layers),
        pooler(c, "pooler"),
        Rejoined(
            "projection", Conv("conv", 2 * hidden, hidden, (size,)), act, norm(c, "LayerNorm"), dropout(c), size
        ),
        _encoder(c, "final_char_encoder", 1),
        rate,
        task(c) in {"ForSequenceClassification", "ForMultipleChoice"},
    )  # fmt: skip
    return with_head(c, "canine", sequence(body), _heads(c))


def _embeddings(c: Dimensions) -> HashedEmbeddings:
    count, hidden, rows = c.num_hash_functions, c.hidden_size, c.num_hash_buckets
    if hidden % count or count > HASHES:
        raise fault(
            "model.num_hash_functions", f"{count} hash functions: at most {HASHES}, that divide a width of {hidden}"
        )
    tables = tuple(Embedding(f"HashBucketCodepointEmbedder_{i}", rows, hidden // count) for i in range(count))
    return HashedEmbeddings(
        "char_embeddings", tables, Embedding("token_type_embeddings", c.type_vocab_size, hidden, index="types"),
        Embedding("char_position_embeddings", rows, hidden, index="positions"), norm(c, "LayerNorm"), dropout(c),
    )  # fmt: skip


def _encoder(c: Dimensions, name: str, layers: int, *, local: bool = False) -> Sequence:
    mixer = self_attention(c, eager_only=True, padded=False, formula="canine")
    if local:
        mixer = replace(mixer, window=c.local_transformer_stride, formula="canine-local")
    return Sequence(name, (repeat("layer", layers, post_norm_layer(c, mixer)),))


def _heads(c: Dimensions) -> Heads:
    drop, classifier = dropout(c), Linear("classifier", c.hidden_size, labels(c), bias=True)
    return {
        "ForSequenceClassification": (drop, classifier),
        "ForMultipleChoice": (drop, replace(classifier, outputs=1)),
        "ForTokenClassification": (drop, classifier),
        "ForQuestionAnswering": (Linear("qa_outputs", c.hidden_size, labels(c), bias=True),),
    }
