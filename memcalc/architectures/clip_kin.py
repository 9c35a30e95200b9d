"""CLIP with other towers of text: a BERT (Chinese-CLIP; Yang et al. 2022), a multilingual RoBERTa (AltCLIP; Chen et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.clip import both, clip_vision_tower, tower
from memcalc.architectures.encoder import embeddings, post_norm_layer, self_attention
from memcalc.architectures.heads import pooler
from memcalc.blocks.base import Block, Sequence, Stray, repeat, sequence
from memcalc.blocks.basic import Linear, Norm, Raw, Select
from memcalc.blocks.seq2seq import Fork
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.basic import Index
    from memcalc.dimensions import Dimensions


@architecture("chinese_clip")
def chinese_clip(c: Dimensions) -> Model:
    """The first token of a BERT without a pooler, beside CLIP's image tower."""
    text = tower(c, "text_config")
    return _two_towers(c, text, (*_encoder(text, "positions"), Select("")), text.hidden_size)


@architecture("altclip")
def altclip(c: Dimensions) -> Model:
    """The first token of a RoBERTa, normed and projected twice, beside CLIP's image tower."""
    text = tower(c, "text_config")
    return _two_towers(c, text, (*_distilled(text), Select("")), text.project_dim)


@architecture("chinese_clip_text_model")
def chinese_clip_text(c: Dimensions) -> Model:
    """A BERT; its pooler is an output that the mean of the last hidden state goes past."""
    body = sequence(*_encoder(c, "positions"), Stray("", (pooler(c, "pooler"),)))
    return Model(body, "encoder", context=c.max_position_embeddings, loss_fp32=False)


@architecture("altclip_text_model")
def altclip_text(c: Dimensions) -> Model:
    """A RoBERTa behind which a norm and a layer make what CLIP's own text tower would."""
    return Model(sequence(*_distilled(c)), "encoder", context=_context(c), loss_fp32=False)


def _two_towers(c: Dimensions, text: Dimensions, words: tuple[Block, ...], width: int) -> Model:
    vision = tower(c, "vision_config")
    pixels = Sequence("vision_model", clip_vision_tower(vision))
    towers = Fork("", (
        sequence(Sequence("text_model", words), Linear("text_projection", width, c.projection_dim)),
        sequence(pixels, Linear("visual_projection", vision.hidden_size, c.projection_dim)),
    ))  # fmt: skip
    return both(c, sequence(towers, Raw("logit_scale", ())), _context(text), vision)


def _context(c: Dimensions) -> int:
    """Positions that a text may have: RoBERTa's begin behind the padding index."""
    return int(c.max_position_embeddings - (c.pad_token_id + 1 if "pad_token_id" in c else 0))


def _encoder(c: Dimensions, positions: Index, name: str = "layer", softmax: str = "fp32") -> tuple[Block, ...]:
    layers = repeat(name, c.num_hidden_layers, post_norm_layer(c, self_attention(c, softmax=softmax)))
    return (embeddings(c, positions=positions), Sequence("encoder", (layers,)))


def _distilled(c: Dimensions) -> tuple[Block, ...]:
    """AltCLIPTextModel."""
    after = Norm("pre_LN", c.hidden_size, "layer")
    last = Linear("transformation", c.hidden_size, c.project_dim, bias=True)
    return (Sequence("roberta", _encoder(c, "token-positions", "layers", "scores")), after, last)
