"""ViLT: a text and an image's patches in one row of a ViT (Kim et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, dropout, grid, image, labels, pair, patches, unknown_class
from memcalc.architectures.vit import nested_layer, pooler
from memcalc.blocks.base import Residual, Sequence, Sum, given, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Embedding, Linear, Norm, Raw
from memcalc.blocks.querying import PairedImages
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions


@architecture("vilt")
def vilt(c: Dimensions) -> Model:
    """Both embedded, told apart by a vector each, layers that are never fused, the first token pooled."""
    hidden = c.hidden_size
    layers = sequence(repeat("layer", c.num_hidden_layers, _layer(c)), name="encoder")
    body = sequence(_embeddings(c), layers, Norm("layernorm", hidden, "layer"), pooler(c))
    if class_name(c).endswith("ForQuestionAnswering"):
        head = sequence(Linear("0", hidden, 2 * hidden, bias=True), Norm("1", 2 * hidden, "layer"), Activation("", "gelu"),
                        Linear("3", 2 * hidden, labels(c), bias=True), name="classifier")  # fmt: skip
        return Model(
            sequence(Sequence("vilt", body.blocks), head), "classifier", c.max_position_embeddings, loss_fp32=False
        )
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return Model(body, "encoder", c.max_position_embeddings)


def _embeddings(c: Dimensions) -> PairedImages:
    hidden, many = c.hidden_size, pair(c.image_size)[0] // pair(c.patch_size)[0]
    words, kinds = (
        Embedding("word_embeddings", c.vocab_size, hidden),
        Embedding("token_type_embeddings", c.type_vocab_size, hidden, index="types"),
    )
    places = Embedding("position_embeddings", c.max_position_embeddings, hidden, index="positions")
    text = sequence(
        Sum("", (words, kinds, places)), Norm("LayerNorm", hidden, "layer"), dropout(c), name="text_embeddings"
    )
    parts = (
        text, Raw("cls_token", (1, 1, hidden)), sequence(patches(c, "projection", looked=1).blocks[0], name="patch_embeddings"),
        Raw("position_embeddings", (1, grid(c) + 1, hidden)),
        Embedding("token_type_embeddings", c.modality_type_vocab_size, hidden, index="types"),
        *given(dropout(c)),
    )  # fmt: skip
    return PairedImages("embeddings", cast("tuple[Sequence, ...]", parts), image(c), scattered=True, side=many)


def _layer(c: Dimensions) -> Sequence:
    first, second = nested_layer(c).blocks
    norm, mixer, *drop = cast("Residual", first).blocks
    never = replace(cast("Attention", mixer), eager_only=True, formula="luke")
    return sequence(residual(norm, never, *drop, lasting=(1 + len(drop),)), second)  # what attention reads has no name
