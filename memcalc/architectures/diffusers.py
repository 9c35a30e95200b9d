"""What the models of diffusers share: time embeddings, attention and feed-forward by their names there, residual blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Sum, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.diffusion import Condition, FirstTokens
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.unet import ResBlock
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


def latent(c: Dimensions, size: tuple[int, ...] = ()) -> tuple[int, ...]:
    """(channels, height, width) of one input latent, or (channels, frames, height, width) of a video's.

    As the run asks (`latents`: frames, height, width), else as the config says or, where it has no such key, `size`,
    which its pipeline takes; empty where nothing does.
    """
    video = len(size) == 3
    asked, side = c.get("latents"), c.get("sample_size")
    if asked:
        return (c.in_channels, *(asked if video else asked[1:]))
    if size or side is None:
        return (c.in_channels, *size) if size else ()
    return (c.in_channels, *(side if isinstance(side, list) else (side, side)))


def denoiser(
    c: Dimensions,
    *blocks: Block | None,
    text: int = 0,
    image: tuple[int, ...] = (),
    scale: tuple[int, int] = (8, 1),
    edits: bool = False,
) -> Model:
    """A model that reads latents of `sample_size`, a time step and a context; `text` tokens where a run says nothing.

    A latent pixel and frame stand for `scale` of the autoencoder's images and videos. One that `edits` reads rows of
    tokens, those of as many images as the run says (`references`) behind those of the one it makes.
    """
    image, beside = image or latent(c), c.get("references") or 0
    if edits and beside:
        blocks, image = (*blocks, FirstTokens("", image[0])), ((1 + beside) * image[0], *image[1:])
    return Model(sequence(*blocks), "diffusion", image=image, text=text, scale=scale, edits=edits)


def embedded(
    name: str,
    inputs: int,
    width: int,
    *,
    act: str = "silu",
    condition: int = 0,
    bias: bool = True,
    **more: Any,  # noqa: ANN401 - fields of Condition
) -> Condition:
    """TimestepEmbedding: linear_2(act(linear_1(x))); `condition` adds a projected guidance vector first.

    x are sinusoids of the time step, or a vector that is `given`.
    """
    guide = Linear("cond_proj", condition, inputs) if condition else None
    pair = Linear("linear_1", inputs, width, bias), Activation("", act), Linear("linear_2", width, width, bias)
    return Condition(name, (*((guide,) if guide else ()), *pair), **more)


def attention(
    name: str,
    width: int,
    heads: int,
    head_dim: int,
    context: int = 0,
    *,
    bias: bool = False,
    out_bias: bool = True,
    **more: Any,  # noqa: ANN401 - fields of Attention
) -> Attention:
    """diffusers' Attention: to_q, to_k, to_v, to_out.0; keys and values of a context `context` wide where given."""
    inner, source, out = heads * head_dim, context or width, str(more.pop("out", "to_out.0"))
    kv = int(more.pop("kv_heads", 0)) or heads
    return Attention(
        name, heads, kv, head_dim,
        q=Linear("to_q", width, inner, bias),
        k=Linear("to_k", source, kv * head_dim, bias),
        v=Linear("to_v", source, kv * head_dim, bias),
        out=Linear(out, inner, width, out_bias),
        causal=False, cross=bool(context), **{"formula": "diffusers", **more},
    )  # fmt: skip


def feed_forward(
    name: str, width: int, *, act: str = "geglu", dropout: float = 0.0, inner: int = 0, bias: bool = True
) -> Mlp:
    """diffusers' FeedForward of 4 times the width: net.0.proj, net.2; gated in one matrix for geglu and swiglu."""
    inner, gated = inner or 4 * width, act in ("geglu", "swiglu")
    up = Linear("net.0.proj", width, (2 if gated else 1) * inner, bias)
    function = {"geglu": "gelu", "swiglu": "silu", "gelu-approximate": "gelu_pytorch_tanh", "linear-silu": "silu"}.get(
        act, act
    )
    down = Linear("net.2", inner, width, bias)
    formula = "diffusers" if gated else ""
    return Mlp(name, up, down, fused=gated, activation=function, width=inner, dropout=dropout, formula=formula)


_FUNCTIONS = {"geglu": "gelu", "swiglu": "silu", "gelu-approximate": "gelu_pytorch_tanh", "linear-silu": "silu"}


def group_norm(name: str, width: int, groups: int) -> Norm:
    """GroupNorm (Wu & He 2018)."""
    return Norm(name, width, "group", "group", groups)


def conv3(name: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None) -> Conv:
    """A convolution that keeps the size of its map (at stride 1)."""
    around = kernel // 2 if padding is None else padding
    return Conv(name, inputs, outputs, (kernel, kernel), stride, padding=around)


def res_block(
    name: str,
    inputs: int,
    outputs: int,
    *,
    time: int = 0,
    groups: int = 32,
    act: str = "silu",
    dropout: float = 0.0,
    **more: bool,
) -> ResBlock:
    """ResnetBlock2D; `time` is the width of the conditioning vector (0: none)."""
    wide = 2 if more.get("scale_shift") else 1
    return ResBlock(
        name,
        group_norm("norm1", inputs, groups), conv3("conv1", inputs, outputs),
        Linear("time_emb_proj", time, wide * outputs, bias=True) if time else None,
        group_norm("norm2", outputs, groups), conv3("conv2", outputs, outputs),
        conv3("conv_shortcut", inputs, outputs, 1) if inputs != outputs else None,
        act, dropout, **more,
    )  # fmt: skip


def map_attention(name: str, width: int, heads: int, groups: int) -> Sequence:
    """Self-attention over the pixels of a map, group norm first (0 `groups`: none), x + it (residual_connection)."""
    norms = (group_norm("group_norm", width, groups),) if groups else ()
    mixer = attention("", width, heads, width // heads, bias=True, before=norms)
    return sequence(Sum("", (sequence(Flatten(""), mixer, Unflatten("", copied=False)), sequence())), name=name)
