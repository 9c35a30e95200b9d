"""LayoutLMv3: words, their boxes and the page's image in one encoder (Huang et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.encoder import embeddings, norm, post_norm_layer, self_attention
from memcalc.architectures.heads import classification_head, classifier_dropout, labels, with_head
from memcalc.blocks.base import Sequence, Sum, repeat, sequence
from memcalc.blocks.basic import Conv, Embedding, Linear, Norm
from memcalc.blocks.layout import Boxes, Page, PlaceBiases, WordsAlone

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

FEW = 10  # labels of tokens, from which on their classifier has a layer more


@architecture("layoutlmv3")
def layoutlmv3(c: Dimensions) -> Model:
    """RoBERTa over words and patches, whose scores are biased by distances in the text and on the page."""
    mixer = self_attention(c, eager_only=True, padded=True, formula="layoutlmv3")
    layers = repeat("layer", c.num_hidden_layers, post_norm_layer(c, mixer))
    encoder = Sequence("encoder", (_biases(c), layers))
    base = sequence(_page(c), encoder)
    return with_head(c, "layoutlmv3", base, _heads(c), context=c.max_position_embeddings - c.pad_token_id - 1)


def _page(c: Dimensions) -> Page:
    size = c.patch_size if isinstance(c.patch_size, list) else [c.patch_size] * 2
    seen: dict[str, Any] = {
        "patches": Conv("patch_embed.proj", c.num_channels, c.hidden_size, tuple(size), stride=tuple(size)),
        "inner": Norm("norm", c.hidden_size, "layer"), "norm": norm(c, "LayerNorm"),
        "side": c.input_size // size[0], "dropout": float(c.hidden_dropout_prob),
    }  # fmt: skip
    return Page("", _words(c), **(seen if c.visual_embed else {}))


def _words(c: Dimensions) -> Sequence:
    """RoBERTa's embeddings, and those of boxes."""
    whole = embeddings(c, positions="token-positions")
    summed, *rest = whole.blocks
    widths = {"x": c.coordinate_size, "y": c.coordinate_size, "h": c.shape_size, "w": c.shape_size}
    tables = tuple(
        Embedding(f"{axis}_position_embeddings", c.max_2d_position_embeddings, width) for axis, width in widths.items()
    )
    return replace(whole, blocks=(Sum("", (*summed.parts(), Boxes("", tables))), *rest))


def _biases(c: Dimensions) -> PlaceBiases:
    heads = c.num_attention_heads
    text = Linear("rel_pos_bias", c.rel_pos_bins, heads) if c.has_relative_attention_bias else None
    page = tuple(Linear(f"rel_pos_{axis}_bias", c.rel_2d_pos_bins, heads) for axis in "xy")
    return PlaceBiases("", text, page if c.has_spatial_attention_bias else ())


def _heads(c: Dimensions) -> Heads:
    drop, hidden, out = classifier_dropout(c), c.hidden_size, labels(c)
    whole = classification_head(c, drop)
    each = replace(whole, blocks=whole.blocks[1:])  # of every token, not the first alone
    few = Linear("classifier", hidden, out, bias=True)
    from_words = (WordsAlone(""), *embeddings(c).blocks[-1:])
    return {
        "ForTokenClassification": (*from_words, few if out < FEW else each),
        "ForQuestionAnswering": (replace(each, name="qa_outputs"),),
        "ForSequenceClassification": (whole,),
    }
