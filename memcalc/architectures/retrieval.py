"""Retrievers of pages: models of images and text whose every token becomes one short vector (ColPali, Faysse et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import labels, with_head
from memcalc.architectures.multimodal import tower
from memcalc.architectures.vision import grid, image
from memcalc.blocks.base import Sequence, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Select
from memcalc.blocks.image import Aside, MergeNeighbours
from memcalc.blocks.multimodal import Images, UnitRows
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("colpali", "colqwen2", "colmodernvbert")
def colpali(c: Dimensions) -> Model:
    """The model without its head, a projection of every token, each divided by its length."""
    v = c.vlm_config
    project = Linear("embedding_proj_layer", v.text_config.hidden_size, c.embedding_dim, bias=True)
    context = int(v.text_config.get("max_position_embeddings") or 0)
    return Model(
        sequence(tower(v.but(pads_images=True), "vlm"), project, UnitRows("")), "encoder", context, loss_fp32=False
    )


@architecture("modernvbert")
def modernvbert(c: Dimensions) -> Model:
    """SigLIP's tokens shuffled `pixel_shuffle_factor`² to one and projected, before ModernBERT (Teiletche et al. 2025)."""
    v, t, factor = c.vision_config, c.text_config, c.pixel_shuffle_factor
    project = Linear("modality_projection", v.hidden_size * factor**2, t.hidden_size)
    connector = sequence(MergeNeighbours("", factor, shuffled=True), project, name="connector")
    seen = tower(v, "vision_model")
    seen = replace(seen, blocks=tuple(Aside("", (part,)) if part.name == "head" else part for part in seen.blocks))
    images = Images("", (seen, connector), image(v), grid(v) // factor**2, scattered=True, listed=True, copied=True,
                    asks=False)  # fmt: skip
    base, context = sequence(images, tower(t, "text_model")), int(t.max_position_embeddings)
    return with_head(c, "model", base, _heads(c), context=context, loss_fp32=False)


def _heads(c: Dimensions) -> Heads:
    """ModernBERT's, the first part of that of masked words beside them."""
    t = c.text_config
    inner = (
        Linear("dense", t.hidden_size, t.hidden_size, bool(t.classifier_bias)), Activation("", t.classifier_activation),
        layer_norm("norm", t.hidden_size, bias=bool(t.norm_bias)),
    )  # fmt: skip
    tie = "model.text_model.embeddings.tok_embeddings.weight" if c.tie_word_embeddings else ""
    words = Linear("lm_head", t.hidden_size, t.vocab_size, bool(t.decoder_bias), tie)
    head, drop = Sequence("head", inner), Dropout("", float(c.classifier_dropout))
    pool = Select("", "mean" if c.classifier_pooling == "mean" else "first")
    label = Linear("classifier", t.hidden_size, labels(c), bias=True)
    return {
        "ForMaskedLM": (Sequence("projection_head", inner), words),
        "ForSequenceClassification": (pool, head, drop, label),
        "ForTokenClassification": (head, drop, label),
    }
