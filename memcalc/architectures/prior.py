"""The prior of unCLIP and Kandinsky 2: a transformer that makes an image's CLIP embedding of a text (Ramesh et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.architectures.dit import heads
from memcalc.blocks.base import Block, Stray, given, repeat, residual
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition
from memcalc.blocks.prior import LastToken, PriorRow
from memcalc.blocks.unet import BasicBlock
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("PriorTransformer")
def prior(c: Dimensions) -> Model:
    """A row of the text's states and four more tokens, of which the last becomes the embedding."""
    _checked(c)
    width, clip = c.num_attention_heads * c.attention_head_dim, c.get("clip_embed_dim") or c.embedding_dim
    ends = [
        Norm(name, width, "layer") if name else None
        for name in ("norm_in" if c.get("norm_in_type") else "", "norm_out")
    ]
    strays = Stray("", tuple(Raw(name, (1, clip)) for name in ("clip_mean", "clip_std")))
    return denoiser(
        c, _time(c, width), _row(c, width), ends[0], repeat("transformer_blocks", c.num_layers, _layer(c, width)), ends[1],
        LastToken("", kept=not c.get("added_emb_type")), Linear("proj_to_clip_embeddings", width, clip, bias=True), strays,
        text=c.num_embeddings, image=(c.embedding_dim,),
    )  # fmt: skip


def _checked(c: Dimensions) -> None:
    """Faults of what the class refuses, or its mask does not fit."""
    for key, known in (("norm_in_type", "layer"), ("embedding_proj_norm_type", "layer"), ("added_emb_type", "prd")):
        if c.get(key) not in (None, known):
            raise fault(f"model.{key}", f"the class knows {known!r} and none")
    if c.get("encoder_hid_proj_type") != "linear":
        raise fault("model.encoder_hid_proj_type", "a prior that reads no text (Shap-E) is not known")
    if c.additional_embeddings != (4 if c.get("added_emb_type") else 3):
        raise fault(
            "model.additional_embeddings", "there are four beside the text's, three without a token of added_emb_type"
        )


def _time(c: Dimensions, width: int) -> Condition:
    """Sinusoids of the time step through two linear layers."""
    wide = c.get("time_embed_dim") or width
    if wide == width:
        return embedded("time_embedding", width, width, act=c.time_embed_act_fn)
    first, second = Linear("linear_1", width, wide, bias=True), Linear("linear_2", wide, width, bias=True)
    return Condition("time_embedding", (first, Activation("", c.time_embed_act_fn), second))


def _row(c: Dimensions, width: int) -> PriorRow:
    read, inputs = c.embedding_dim, c.get("embedding_proj_dim") or c.embedding_dim
    norm = Norm("embedding_proj_norm", inputs, "layer") if c.get("embedding_proj_norm_type") else None
    vector: tuple[Block, ...] = given(norm, Linear("embedding_proj", inputs, width, bias=True))
    places = Raw("positional_embedding", (1, c.num_embeddings + c.additional_embeddings, width))
    last = Raw("prd_embedding", (1, 1, width)) if c.get("added_emb_type") else None
    words = Linear("encoder_hidden_states_proj", read, width, bias=True)
    into = Linear("proj_in", read, width, bias=True)
    return PriorRow("", vector, words, into, places, last, c.num_embeddings, read, inputs, c.num_attention_heads)


def _layer(c: Dimensions, width: int) -> BasicBlock:
    mixer = attention("attn1", width, *heads(c), bias=True, out_dropout=c.dropout, formula="prior")
    feed = feed_forward("ff", width, act="gelu", dropout=c.dropout)
    return BasicBlock(
        "", (residual(Norm("norm1", width, "layer"), mixer), residual(Norm("norm3", width, "layer"), feed))
    )
