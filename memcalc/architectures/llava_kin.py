"""An image encoder, a projector of its own, a language model: DeepSeek-VL (Lu et al. 2024), GOT-OCR 2 (Wei et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import grid, image
from memcalc.blocks.base import sequence
from memcalc.blocks.basic import Activation, Conv, Linear
from memcalc.blocks.image import Aside, Flatten
from memcalc.blocks.multimodal import Images

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("deepseek_vl")
def deepseek_vl(c: Dimensions) -> Model:
    """SigLIP's tokens through two linear layers; what pools them runs for nobody."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    whole = tower(v, "vision_model")
    read = tuple(Aside("", (block,)) if block.name == "head" else block for block in whole.blocks)
    first, second = Linear("linear1", v.hidden_size, hidden, bias=True), Linear("linear2", hidden, hidden, bias=True)
    project = sequence(first, Activation("", "gelu"), second, name="aligner")
    images = Images("", (replace(whole, blocks=read), project), image(v), grid(v), scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("got_ocr2")
def got_ocr2(c: Dimensions) -> Model:
    """Segment Anything's map halved twice, a linear layer, Qwen 2."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    wide = v.output_channels
    halves = (
        Conv("conv_upsampler1", wide, 2 * wide, (3, 3), 2, bias=False, padding=1),
        Conv("conv_upsampler2", 2 * wide, hidden, (3, 3), 2, bias=False, padding=1),
    )
    last = Linear("multimodal_projector", hidden, hidden, bias=True)
    project = sequence(*halves, Flatten(""), last, name="multi_modal_projector")
    images = Images("", (tower(v, "vision_tower"), project), image(v), grid(v) // 16, scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))
