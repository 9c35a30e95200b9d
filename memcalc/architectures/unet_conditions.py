"""What a UNet is told beside its input: the time step, a class, pooled text and sizes, the text's states (diffusers)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures.diffusers import embedded
from memcalc.blocks.base import Sequence
from memcalc.blocks.basic import Embedding, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions

STATES = 32  # that an image's embedding becomes (diffusers, ImageProjection.__init__)


def time_width(c: Dimensions) -> int:
    """Channels of the time embedding."""
    return int(
        c.get("time_embedding_dim") or c.block_out_channels[0] * (2 if c.time_embedding_type == "fourier" else 4)
    )


def conditions(c: Dimensions) -> list[Block | None]:
    """Time, class, additional and context embeddings, in the order they run."""
    wide = time_width(c)
    inputs = wide if c.time_embedding_type == "fourier" else c.block_out_channels[0]
    frequencies = wide // 2 if c.time_embedding_type == "fourier" else 0
    guide = c.get("time_cond_proj_dim") or 0
    return [
        time_embedding(c, inputs, wide, frequencies, guide),
        class_embedding(c, inputs, wide),
        _addition(c, wide),
        _context(c),
    ]


def time_embedding(c: Dimensions, inputs: int, wide: int, frequencies: int = 0, guide: int = 0) -> Condition:
    """TimestepEmbedding of sinusoids, of fixed random `frequencies` (GaussianFourierProjection), or of a learned table."""
    made = embedded("time_embedding", inputs, wide, act=c.act_fn, condition=guide)
    if frequencies:
        return _behind(Raw("time_proj.weight", (frequencies,), trainable=False), made)
    if c.time_embedding_type == "learned":
        return _behind(Embedding("time_proj", c.num_train_timesteps, inputs), made)
    return made


def _behind(first: Block, made: Condition) -> Condition:
    """A condition that begins with another module."""
    blocks = (replace(block, name=f"{made.name}.{block.name}") if block.name else block for block in made.blocks)
    return Condition("", (first, *blocks))


def class_embedding(c: Dimensions, inputs: int, wide: int) -> Block | None:
    """The class of the image, by a table or from numbers that are given."""
    count, given = c.get("num_class_embeds"), c.get("projection_class_embeddings_input_dim")
    match c.get("class_embed_type"):
        case None if count is not None:
            return Condition("", (Embedding("class_embedding", count, wide),))
        case None | "identity":
            return None
        case "timestep":
            return embedded("class_embedding", inputs, wide, act=c.act_fn)
        case "projection":
            return embedded("class_embedding", given, wide, given=True)
        case "simple_projection":
            return Condition("", (Linear("class_embedding", given, wide, bias=True),), given=True)
        case other:
            raise fault("model.class_embed_type", f"{other!r} is not known")


def _addition(c: Dimensions, wide: int) -> Block | None:
    """What is added to the time embedding: pooled text and sizes (SDXL), pooled text (IF), image (Kandinsky 2.2)."""
    match c.get("addition_embed_type"):
        case None:
            return None
        case "text_time":
            return embedded("add_embedding", c.projection_class_embeddings_input_dim, wide, given=True)
        case "text":
            return _text_time(c.get("encoder_hid_dim") or c.cross_attention_dim, wide)
        case "image":
            linear = Linear("image_proj", c.encoder_hid_dim, wide, bias=True)
            norm = Norm("image_norm", wide, "layer")
            return Condition("add_embedding", (linear, norm), given=True, named="image_embeds")
        case other:
            raise fault("model.addition_embed_type", f"{other!r} is not known")


def _text_time(inputs: int, wide: int) -> Block:
    """TextTimeEmbedding: norm, attention pooling with a learned position, projection, norm."""
    maps = tuple(Linear(name, inputs, inputs, bias=True) for name in ("k_proj", "q_proj", "v_proj"))
    pool = Sequence("pool", (Raw("positional_embedding", (1, inputs)), *maps))
    norms = Norm("norm1", inputs, "layer"), Norm("norm2", wide, "layer")
    return Condition("add_embedding", (norms[0], pool, Linear("proj", inputs, wide, bias=True), norms[1]))


def _context(c: Dimensions) -> Block | None:
    """How the encoder's states become the context of cross attention."""
    inputs, wide = c.get("encoder_hid_dim"), c.get("cross_attention_dim")
    match c.get("encoder_hid_dim_type") or ("text_proj" if inputs else None):
        case None:
            return None
        case "text_proj":
            return Condition("", (Linear("encoder_hid_proj", inputs, wide, bias=True),), tokens=True)
        case "image_proj":
            linear, norm = Linear("image_embeds", inputs, STATES * wide, bias=True), Norm("norm", wide, "layer")
            return Condition("encoder_hid_proj", (linear, norm), given=True, makes=STATES, named="image_embeds")
        case other:
            raise fault("model.encoder_hid_dim_type", f"{other!r} is not known")
