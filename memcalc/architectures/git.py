"""GIT: a text decoder that reads an image's tokens in front of its own (Wang et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, post_norm_layer, self_attention
from memcalc.architectures.multimodal import tower
from memcalc.architectures.vision import (
    attention,
    class_name,
    encoder_layer,
    grid,
    image,
    layer_norms,
    made,
    mlp,
    patches,
    unknown_class,
)
from memcalc.blocks.base import Sequence, Sum, Unused, repeat, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Prefix
from memcalc.blocks.querying import LeadingImages, ShiftedLogits
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("git")
def git(c: Dimensions) -> Model:
    """Word and position embeddings, the image's tokens put before them, post-norm layers that are never fused."""
    v, hidden = c.vision_config, c.hidden_size
    words = Embedding("word_embeddings", c.vocab_size, hidden)
    places = Embedding("position_embeddings", c.max_position_embeddings, hidden, index="positions")
    start = sequence(Sum("", (words, places)), Norm("LayerNorm", hidden, "layer"), dropout(c), name="embeddings")
    mixer = self_attention(c.but(is_decoder=True), eager_only=True, formula="rembert")
    layers = sequence(repeat("layer", c.num_hidden_layers, post_norm_layer(c, mixer)), name="encoder")
    project = sequence(Linear("0", v.hidden_size, hidden, bias=True), Norm("1", hidden, "layer"),
                       name="visual_projection.visual_projection")  # fmt: skip
    images = LeadingImages("", (tower(v, "image_encoder"), project), image(v), scattered=True)
    count = int(c.get("num_image_with_embedding") or 0)
    frames = tuple(Raw(str(i), (1, 1, v.hidden_size)) for i in range(count))
    base = start, images, layers, *([Unused("img_temporal_embedding", frames)] if frames else [])
    if class_name(c).endswith("ForCausalLM"):
        tie = "git.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
        head = sequence(Linear("output", hidden, c.vocab_size, True, tie), ShiftedLogits("", grid(v) + 1))
        return Model(sequence(Sequence("git", base), head), context=c.max_position_embeddings)
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return Model(sequence(*base), "encoder", c.max_position_embeddings)


@architecture("git_vision_model")
def git_vision(c: Dimensions) -> Model:
    """CLIP's image tower, whose last norm is of every token."""
    start = sequence(
        patches(c, "patch_embedding", bias=False, looked=1), Prefix("class_embedding", (c.hidden_size,)),
        Embedding("position_embedding", grid(c) + 1, c.hidden_size, index="positions"), name="embeddings",
    )  # fmt: skip
    mixer = attention(c, "self_attn", out="out_proj", cut="all", eager_only=True)  # as the text around it
    layer = encoder_layer(mixer, mlp(c), layer_norms(c, "layer_norm1", "layer_norm2"))
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="encoder")
    before, after = (Norm(name, c.hidden_size, "layer") for name in ("pre_layrnorm", "post_layernorm"))
    return made(c, sequence(Sequence("vision_model", (start, before, layers, after))), "encoder")
