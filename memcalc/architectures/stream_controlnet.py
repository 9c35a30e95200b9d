"""ControlNets of FLUX and Stable Diffusion 3: the first layers as a copy that learns (diffusers' train_controlnet scripts)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, cast

from memcalc.architectures import architecture, model_of
from memcalc.architectures.diffusers import denoiser
from memcalc.architectures.mmdit import (
    SD3_TOKENS,
    context_embedder,
    flux_joint,
    flux_single,
    packed,
    sd3_block,
    sd3_patches,
    time_and_text,
)
from memcalc.blocks.base import Block, Sequence, Stack, Stray, given, stack
from memcalc.blocks.basic import Conv, Linear, Raw
from memcalc.blocks.control import ConditionTokens, Steered, SteeredTransformer, StreamControlNet
from memcalc.blocks.image import Flatten
from memcalc.blocks.joint import AxialRotary, JointBlock
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.joint import JointAttention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

ALONE = (
    "the ControlNet alone: the transformer that stands still beside it in training is not in this; give its config as "
    "`transformer`"
)


@architecture("FluxControlNetModel")
def flux_controlnet(c: Dimensions) -> Model:
    """Layers of both kinds; what steers is packed as the latents are. Its checkpoints are the transformer's, too."""
    if c.get("num_mode") is not None or c.get("conditioning_embedding_channels") is not None:
        raise fault("model", "neither a union of ControlNets nor one that reads pixels is known")
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    condition = ConditionTokens("", (Linear("controlnet_x_embedder", c.in_channels, width, bias=True),))
    joint = flux_joint(c, width, rotary)
    both: list[Block] = (
        [joint] * c.num_layers if c.num_single_layers else [*[joint] * (c.num_layers - 1), _text_idle(joint)]
    )
    read = _read(c, "num_layers"), _read(c, "num_single_layers")
    single: list[Block] = [flux_single(c, width, rotary)] * c.num_single_layers
    single[read[1] :] = [Stray("", (block,)) for block in single[read[1] :]]
    layers = stack("transformer_blocks", both), stack("single_transformer_blocks", single)
    stacks = tuple(part for part in layers if part.layers)
    blocks = (
        Linear("x_embedder", c.in_channels, width, bias=True), condition,
        time_and_text(width, c.pooled_projection_dim, guidance=bool(c.guidance_embeds)),
        context_embedder(c.joint_attention_dim, width), AxialRotary("", tuple(c.axes_dims_rope)), *stacks,
    )  # fmt: skip
    outs = (_outs("controlnet_blocks", width, c.num_layers, read[0]),
            _outs("controlnet_single_blocks", width, c.num_single_layers, read[1]))  # fmt: skip
    made = denoiser(c, StreamControlNet("", blocks, tuple(part for part in outs if part.layers), _base(c, stacks)), text=512,
                    image=packed(c))  # fmt: skip
    return made if c.gives("transformer") else replace(made, notes=(ALONE,))


@architecture("SD3ControlNetModel")
def sd3_controlnet(c: Dimensions) -> Model:
    """Joint layers, the text of whose last leads nowhere; what steers is cut into patches of its own."""
    if not c.use_pos_embed or c.joint_attention_dim is None:
        raise fault("model", "a ControlNet that shares its transformer's embeddings is not known")
    if "pos_embed_type" in c and c.pos_embed_type != "sincos":
        raise fault("model.pos_embed_type", "only positions that are sinusoids are known")
    width, dual = c.num_attention_heads * c.attention_head_dim, set(c.dual_attention_layers)
    kinds = {two: sd3_block(c, width, dual=two, last=False) for two in (False, True)}
    layers: list[Block] = [kinds[i in dual] for i in range(c.num_layers)]
    read = _read(c, "num_layers", even=True)
    layers[read - 1] = _text_idle(kinds[read - 1 in dual])
    layers[read:] = [Stray("", (block,)) for block in layers[read:]]
    patch, channels = (c.patch_size, c.patch_size), c.in_channels + c.extra_conditioning_channels
    cut = Conv("pos_embed_input.proj", channels, width, patch, patch), Flatten("")
    stacks = (stack("transformer_blocks", layers),)
    blocks = (
        sd3_patches(c, width), time_and_text(width, c.pooled_projection_dim),
        context_embedder(c.joint_attention_dim, c.caption_projection_dim), ConditionTokens("", cut, channels), *stacks,
    )  # fmt: skip
    outs = (_outs("controlnet_blocks", width, c.num_layers, read),)
    made = denoiser(c, StreamControlNet("", blocks, outs, _base(c, stacks, even=True)), text=SD3_TOKENS)
    return made if c.gives("transformer") else replace(made, notes=(ALONE,))


def _text_idle(block: JointBlock) -> JointBlock:
    """The same where what becomes of the text is not used: of its parts, those behind its keys and values are idle."""
    mixer = cast("JointAttention", block.attention)
    mixer = replace(mixer, context_out=Stray("", given(mixer.context_out)))
    return replace(block, attention=mixer, context_mlp=Stray("", given(block.context_mlp)))


def _outs(name: str, width: int, count: int, read: int) -> Stack:
    """A linear layer for every state; what those behind the ones that are `read` make is added nowhere."""
    layer = Linear("", width, width, bias=True)
    return stack(name, [*[layer] * read, *[Stray("", (layer,))] * (count - read)], "never")


def _read(c: Dimensions, key: str, *, even: bool = False) -> int:
    """Of so many states those that the transformer adds: each behind ⌈its layers / states⌉ of its layers in a row.

    Or, `even`, behind as many as there are to a state, and none behind the last of them (Stable Diffusion 3).
    """
    count = int(c[key])
    if not c.gives("transformer") or not count:
        return count
    layers = c.transformer[key]
    together = layers / count if even else ceil(layers / count)
    return len({int(i / together) for i in range(layers - even)})


def _base(c: Dimensions, stacks: tuple[Stack, ...], *, even: bool = False) -> SteeredTransformer | None:
    """The transformer that stands still, if it is given: before each of its stacks, what is added behind the layers."""
    if not c.gives("transformer"):
        return None
    blocks: list[Block] = []
    steering = {part.name: number for number, part in enumerate(stacks)}
    for block in model_of(c.transformer).body.parts():
        if isinstance(block, Stack) and block.name in steering:
            blocks.append(Steered("", steering[block.name], len(block.layers), even, but_last=even))
        blocks.append(_cast(block))
    return SteeredTransformer("transformer", tuple(blocks), recomputed=not even)


def _cast(block: Block) -> Block:
    """The same with its table of positions in the dtype of its weights, to which `transformer.to` casts it."""
    if not isinstance(block, Sequence) or not any(isinstance(part, Raw) for part in block.blocks):
        return block
    return replace(
        block, blocks=tuple(replace(part, dtype="") if isinstance(part, Raw) else part for part in block.blocks)
    )
