"""What image encoders share: patches, learned tokens and positions, pre-norm encoder layers, classification heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Dropout, Idle, Linear, Norm, Raw, Select
from memcalc.blocks.image import ChannelScale, DropPath, Flatten, Positions, Prefix
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Kind


def pair(value: Any) -> tuple[int, int]:  # noqa: ANN401 - a config's image_size is a number or a list of two
    """(height, width) of a size that a config gives as one number or as two."""
    if isinstance(value, (list, tuple)):
        height, width = value
        return int(height), int(width)
    return int(value), int(value)


def grid(c: Dimensions) -> int:
    """Patches of one image: (height // patch height) · (width // patch width)."""
    (height, width), (patch_height, patch_width) = pair(c.image_size), pair(c.patch_size)
    return (height // patch_height) * (width // patch_width)


def image(c: Dimensions) -> tuple[int, ...]:
    """(channels, height, width) of one input image; empty where a config leaves the size to its images."""
    return (c.get("num_channels") or 3, *pair(c.image_size)) if "image_size" in c else ()


def patches(
    c: Dimensions, name: str, width: int = 0, *, bias: bool = True, embeds: bool = True, looked: int = 0
) -> Sequence:
    """The image cut into patches by a convolution of stride = kernel = patch size, each patch a token."""
    kernel, inputs = pair(c.patch_size), c.get("num_channels") or 3
    conv = Conv(name, inputs, width or c.hidden_size, kernel, kernel, bias=bias, embeds=embeds, looked=looked)
    return sequence(conv, Flatten(""))


def embeddings(
    c: Dimensions, *, prefix: dict[str, int], extra: tuple[Block, ...] = (), positions: bool = True, looked: int = 0
) -> Sequence:
    """ViT's embeddings: patches, `prefix` ({name: how many} learned tokens before them), positions for them all.

    `looked` is that of their convolution.
    """
    count = grid(c) + sum(prefix.values())
    tokens = [Prefix(name, (1, number, c.hidden_size)) for name, number in prefix.items()]
    table = Positions("position_embeddings", (1, count, c.hidden_size)) if positions else None
    cut = sequence(patches(c, "projection", looked=looked), name="patch_embeddings")
    return sequence(cut, *extra, *tokens, table, dropout(c), name="embeddings")


def dropout(c: Dimensions, key: str = "hidden_dropout_prob") -> Dropout | Idle | None:
    """The config's dropout, a module that passes its input on where that is 0; None where the config has none."""
    p = float(c.get(key) or 0.0)
    if p:
        return Dropout("", p)
    return Idle("") if key in c else None


def drop_path(c: Dimensions, *, first: bool = False) -> DropPath | None:
    """Stochastic depth where the config asks for it; rates that rise from layer to layer begin at 0 (`first`)."""
    p = float(c.get("drop_path_rate") or 0.0)
    return DropPath("", p) if p and not first else None


def attention(
    c: Dimensions,
    name: str,
    *,
    bias: bool = True,
    out: str = "o_proj",
    causal: bool = False,
    **more: Any,  # noqa: ANN401 - fields of Attention
) -> Attention:
    """Full attention among the tokens of an image, q_proj, k_proj, v_proj and `out`, the last always biased."""
    heads, hidden = c.num_attention_heads, c.hidden_size
    dim = int(c.get("head_dim") or hidden // heads)
    k_bias = bool(more.pop("k_bias", bias))
    more.setdefault("dropout", float(c.get("attention_probs_dropout_prob") or c.get("attention_dropout") or 0.0))
    return Attention(
        name, heads, heads, dim,
        q=Linear("q_proj", hidden, heads * dim, bias),
        k=Linear("k_proj", hidden, heads * dim, k_bias),
        v=Linear("v_proj", hidden, heads * dim, bool(more.pop("v_bias", bias))),
        out=Linear(out, heads * dim, hidden, bool(more.pop("out_bias", True))),
        causal=causal, **more,
    )  # fmt: skip


def mlp(
    c: Dimensions,
    width: int = 0,
    *,
    name: str = "mlp",
    names: tuple[str, str] = ("fc1", "fc2"),
    bias: bool = True,
    hidden: int = 0,
) -> Mlp:
    """fc2(act(fc1(x))) of `width` (default: intermediate_size)."""
    width, hidden = width or c.intermediate_size, hidden or c.hidden_size
    up, down = Linear(names[0], hidden, width, bias), Linear(names[1], width, hidden, bias)
    return Mlp(name, up, down, activation=c.get("hidden_act") or "gelu", width=width)


def encoder_layer(
    mixer: Block,
    feed_forward: Block,
    norms: tuple[Norm, Norm],
    scales: tuple[ChannelScale | None, ChannelScale | None] = (None, None),
    drop: Block | None = None,
) -> Sequence:
    """A pre-norm layer: x + scale(mixer(norm(x))), then x + scale(mlp(norm(x)))."""
    return sequence(residual(norms[0], mixer, scales[0], drop), residual(norms[1], feed_forward, scales[1], drop))


def layer_norms(c: Dimensions, first: str, second: str) -> tuple[Norm, Norm]:
    """The two LayerNorms of an encoder layer."""
    return Norm(first, c.hidden_size, "layer"), Norm(second, c.hidden_size, "layer")


def layer_scales(c: Dimensions, first: str, second: str) -> tuple[ChannelScale, ChannelScale]:
    """The two LayerScales of an encoder layer."""
    return ChannelScale(first, (c.hidden_size,)), ChannelScale(second, (c.hidden_size,))


def class_name(c: Dimensions) -> str:
    """The class whose tensors are wanted: the config's `architectures`, else the class of its card."""
    return str((c.get("architectures") or [""])[0])


def labels(c: Dimensions) -> int:
    """Classes of a classifier (transformers: num_labels, else the length of id2label, else 2)."""
    given = c.get("num_labels")
    return int(given) if given is not None else len(c.get("id2label") or (0, 1))


def image_model(
    c: Dimensions, prefix: str, body: Sequence, pooler: Block | None = None, *, width: int = 0, read: str = "first"
) -> Model:
    """The body under its class's head: a classifier on the tokens `read`, or the bare model with its pooler."""
    name = class_name(c)
    if name.endswith("ForImageClassification"):
        return image_classifier(c, Sequence(prefix, body.blocks), width or c.hidden_size, read)
    if "For" in name:
        raise unknown_class(c)
    return made(c, sequence(*body.blocks, None if name.endswith("Backbone") else pooler), "encoder")


def image_classifier(c: Dimensions, base: Block, width: int, read: str = "first") -> Model:
    """The base, what the head reads of its tokens ('': all), and a linear classifier (none where num_labels is 0)."""
    head = Linear("classifier", width, labels(c), bias=True) if labels(c) else None
    return made(c, sequence(base, Select("", read) if read else None, head), "image")  # type: ignore[arg-type]


def made(c: Dimensions, body: Block, kind: Kind) -> Model:
    """A model whose input is one image of the config's size."""
    return Model(body, kind, image=image(c), loss_fp32=False)


def prediction_head(name: str, width: int, outputs: int, layers: int) -> Sequence:
    """So many linear layers, relu between them (DetrMLPPredictionHead and its copies)."""
    inner = sequence(Linear("", width, width, bias=True), Activation("", "relu"))
    last = sequence(Linear("", width, outputs, bias=True))
    return sequence(stack("layers", [*[inner] * (layers - 1), last], "never"), name=name)


def mask_token(c: Dimensions, *shape: int) -> Raw:
    """The token that stands for masked patches in pre-training: a tensor no ordinary step touches."""
    return Raw("mask_token", (*shape, c.hidden_size))


def unknown_class(c: Dimensions) -> Exception:
    """The refusal of a model class whose head is not known here."""
    return fault("model.architectures", f"the head of {class_name(c)} is not known for {c.model_type}")
