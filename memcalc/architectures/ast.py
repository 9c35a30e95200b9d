"""Audio spectrogram transformer: a ViT over overlapping patches of a spectrogram (Gong et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, dropout, labels
from memcalc.architectures.vit import vit_layer
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Conv, Linear, Norm
from memcalc.blocks.image import Flatten, Positions, Prefix
from memcalc.blocks.speech import FirstTwo
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("audio-spectrogram-transformer")
def spectrogram_transformer(c: Dimensions) -> Model:
    """A class and a distillation token, whose mean the classifier reads."""
    layers = repeat("layers", c.num_hidden_layers, vit_layer(c))
    blocks = (_embeddings(c), layers, Norm("layernorm", c.hidden_size, "layer"))
    picture = (1, c.num_mel_bins, c.max_length)
    if class_name(c).endswith("Model"):
        return Model(Sequence("", blocks), kind="encoder", image=picture)
    head = sequence(
        Norm("layernorm", c.hidden_size, "layer"), Linear("dense", c.hidden_size, labels(c), bias=True),
        name="classifier",
    )  # fmt: skip
    body = sequence(Sequence("audio_spectrogram_transformer", blocks), FirstTwo(""), head)
    return Model(body, kind="image", image=picture)


def _embeddings(c: Dimensions) -> Sequence:
    high, wide = c.frequency_stride, c.time_stride
    across, along = (c.num_mel_bins - c.patch_size) // high + 1, (c.max_length - c.patch_size) // wide + 1
    project = Conv(
        "patch_embeddings.projection", 1, c.hidden_size, (c.patch_size,) * 2, stride=(high, wide), embeds=True
    )
    return sequence(
        project, Flatten(""), Prefix("distillation_token", (1, 1, c.hidden_size)),
        Prefix("cls_token", (1, 1, c.hidden_size)), Positions("position_embeddings", (1, across * along + 2, c.hidden_size)),
        dropout(c), name="embeddings",
    )  # fmt: skip
