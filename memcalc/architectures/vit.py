"""Vision transformers: an image as patches, a class token, and a pre-norm encoder (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import (
    attention,
    class_name,
    drop_path,
    dropout,
    embeddings,
    encoder_layer,
    grid,
    image_model,
    labels,
    layer_norms,
    layer_scales,
    made,
    mask_token,
    mlp,
    pair,
    patches,
)
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Idle, Linear, Norm, Raw, Select
from memcalc.blocks.image import BiasedLayer, PatchRotary, Prefix, SharedBias
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.painting import MaskedPatches, PatchPainter, PixelDecoder, VisiblePatches

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("vit")
def vit(c: Dimensions) -> Model:
    """A class token before the patches, a pooler of it behind the layers."""
    return _vit(c, "vit", {"cls_token": 1}, pooler(c))


@architecture("deit")
def deit(c: Dimensions) -> Model:
    """ViT with a second token, which learns from a teacher (Touvron et al. 2021)."""
    return _vit(c, "deit", {"cls_token": 1, "distillation_token": 1}, pooler(c))


@architecture("vit_msn")
def vit_msn(c: Dimensions) -> Model:
    """ViT without a pooler (Assran et al. 2022)."""
    return _vit(c, "vit", {"cls_token": 1})


@architecture("ijepa")
def ijepa(c: Dimensions) -> Model:
    """ViT without a class token (Assran et al. 2023)."""
    return _vit(c, "ijepa", {})


def _vit(c: Dimensions, prefix: str, tokens: dict[str, int], pooled: Sequence | None = None) -> Model:
    """ViT's encoder behind these tokens, under its head."""
    masked = class_name(c).endswith("ForMaskedImageModeling")
    mask = (MaskedPatches("mask_token", (1, 1, c.hidden_size)),) if masked else ()
    layers = repeat("layers", c.num_hidden_layers, vit_layer(c))
    body = sequence(
        embeddings(c, prefix=tokens, extra=mask, looked=3), layers, Norm("layernorm", c.hidden_size, "layer")
    )
    if masked:
        return pixel_decoder(c, Sequence(prefix, body.blocks), around=(1, len(tokens) - 1))
    if class_name(c) == "DeiTForImageClassificationWithTeacher":
        heads = (
            Linear(name, c.hidden_size, labels(c), bias=True) for name in ("cls_classifier", "distillation_classifier")
        )
        return made(c, sequence(Sequence("deit", body.blocks), Select(""), *heads), "image")
    return image_model(c, prefix, body, pooled, read="first" if tokens else "mean")


def vit_layer(c: Dimensions) -> Sequence:
    """ViT's encoder layer."""
    norms = layer_norms(c, "layernorm_before", "layernorm_after")
    return encoder_layer(attention(c, "attention", bias=bool(c.qkv_bias)), mlp(c), norms, drop=dropout(c))


def nested_layer(c: Dimensions, *, key_bias: bool = True) -> Sequence:
    """ViT's layer in the modules `attention.attention`, `attention.output`, `intermediate`, `output` (VideoMAE, YOLOS, ViLT).

    The MLP's second half adds its output to the residual itself. Keys have a bias as queries and values do, or none.
    """
    hidden, heads, bias = c.hidden_size, c.num_attention_heads, bool(c.qkv_bias)
    q, v = (Linear(f"attention.{name}", hidden, hidden, bias) for name in ("query", "value"))
    mixer = Attention(
        "attention", heads, heads, hidden // heads, q=q, k=Linear("attention.key", hidden, hidden, bias and key_bias), v=v,
        out=Linear("output.dense", hidden, hidden, bias=True), causal=False, dropout=float(c.attention_probs_dropout_prob),
        softmax="scores",
    )  # fmt: skip
    up = Linear("intermediate.dense", hidden, c.intermediate_size, bias=True)
    down = Linear("output.dense", c.intermediate_size, hidden, bias=True)
    feed = Mlp("", up, down, activation=c.hidden_act, width=c.intermediate_size, inline=True)
    before, after = layer_norms(c, "layernorm_before", "layernorm_after")
    drop = dropout(c)
    first = residual(before, mixer, drop, lasting=(0, 2 if drop else 1))
    return sequence(first, residual(after, feed, drop, within=True))


def pooler(c: Dimensions) -> Sequence:
    """A linear layer and tanh on the first token."""
    dense = Linear("dense", c.hidden_size, c.get("pooler_output_size") or c.hidden_size, bias=True)
    return sequence(Select(""), dense, Activation("", c.get("pooler_act") or "tanh"), name="pooler")


def pixel_decoder(c: Dimensions, base: Block, width: int = 0, around: tuple[int, int] = (0, 0)) -> Model:
    """SimMIM's head: a 1x1 convolution to stride² pixels per token, shuffled into an image (Xie et al. 2022).

    `around` are the tokens in front of the patches and behind them which it leaves out.
    """
    conv = Conv("decoder.0", width or c.hidden_size, c.encoder_stride**2 * c.num_channels, (1, 1))
    return made(c, sequence(base, PixelDecoder("", (conv,), *around, c.encoder_stride)), "masked-image")


@architecture("vit_mae")
def vit_mae(c: Dimensions) -> Model:
    """A ViT that sees a quarter of the patches, and a small decoder that paints the rest (He et al. 2022)."""
    inner = sequence(patches(c, "projection"), name="patch_embeddings")
    table = Raw("position_embeddings", (1, grid(c) + 1, c.hidden_size), trainable=False)
    begin = VisiblePatches("embeddings", (inner, table, Raw("cls_token", (1, 1, c.hidden_size))), float(c.mask_ratio))
    layers = repeat("layers", c.num_hidden_layers, vit_layer(c))
    body = sequence(begin, layers, Norm("layernorm", c.hidden_size, "layer"))
    if not class_name(c).endswith("ForPreTraining"):
        return image_model(c, "vit", body)
    return made(c, sequence(Sequence("vit", body.blocks), _mae_decoder(c)), "image-autoencoder")


def _mae_decoder(c: Dimensions) -> PatchPainter:
    hidden, (height, width) = c.decoder_hidden_size, pair(c.patch_size)
    d = c.but(
        hidden_size=hidden, num_hidden_layers=c.decoder_num_hidden_layers,
        num_attention_heads=c.decoder_num_attention_heads, intermediate_size=c.decoder_intermediate_size,
    )  # fmt: skip
    return PatchPainter("decoder", (
        Linear("decoder_embed", c.hidden_size, hidden, bias=True),
        Raw("mask_token", (1, 1, hidden)),
        Raw("decoder_pos_embed", (1, grid(c) + 1, hidden), trainable=False),
        repeat("decoder_layers", d.num_hidden_layers, vit_layer(d)),
        Norm("decoder_norm", hidden, "layer"),
        Linear("decoder_pred", hidden, height * width * c.num_channels, bias=True),
    ))  # fmt: skip


@architecture("dinov2", "dinov2_with_registers")
def dinov2(c: Dimensions) -> Model:
    """ViT with LayerScale, and with registers in the later release (Oquab et al. 2023; Darcet et al. 2024)."""
    registers = int(c.get("num_register_tokens") or 0)
    mask = (mask_token(c, 1),) if c.get("use_mask_token", True) else ()
    begin = embeddings(c, prefix={"cls_token": 1}, extra=mask, looked=1)
    if "num_register_tokens" in c:  # put between class and patches, after the positions
        begin = Sequence("embeddings", (*begin.blocks, Prefix("register_tokens", (1, registers, c.hidden_size))))
    layer = encoder_layer(
        attention(c, "attention", bias=bool(c.qkv_bias), softmax="scores"), _dinov2_mlp(c), layer_norms(c, "norm1", "norm2"),
        layer_scales(c, "layer_scale1.lambda1", "layer_scale2.lambda1"), drop_path(c) or Idle(""),
    )  # fmt: skip
    layers = sequence(repeat("layer", c.num_hidden_layers, layer), name="encoder")
    body = sequence(begin, layers, Norm("layernorm", c.hidden_size, "layer"))
    return image_model(c, c.model_type, body, width=2 * c.hidden_size, read="first+mean")


def _dinov2_mlp(c: Dimensions) -> Mlp:
    width = int(c.hidden_size * c.mlp_ratio)
    if not c.use_swiglu_ffn:
        return mlp(c, width)
    return gated(c, (int(width * 2 / 3) + 7) // 8 * 8, "silu", bias=True)


def gated(c: Dimensions, width: int, activation: str, *, bias: bool) -> Mlp:
    """down_proj(act(gate_proj(x)) * up_proj(x))."""
    up, gate = (Linear(name, c.hidden_size, width, bias) for name in ("up_proj", "gate_proj"))
    return Mlp("mlp", up, Linear("down_proj", width, c.hidden_size, bias), gate, activation=activation, width=width)


@architecture("dinov3_vit")
def dinov3(c: Dimensions) -> Model:
    """ViT with rotary positions, registers and LayerScale (Siméoni et al. 2025)."""
    begin = sequence(
        mask_token(c, 1, 1), patches(c, "patch_embeddings", looked=2),
        Prefix("cls_token", (1, 1, c.hidden_size)),
        Prefix("register_tokens", (1, c.num_register_tokens, c.hidden_size)), name="embeddings",
    )  # fmt: skip
    mixer = attention(
        c, "attention", bias=bool(c.query_bias), k_bias=c.key_bias, v_bias=c.value_bias, out_bias=c.proj_bias,
        rotary_dim=c.hidden_size // c.num_attention_heads, rotation="own", softmax="scores", formula="dinov3",
    )  # fmt: skip
    bias, act = bool(c.mlp_bias), c.hidden_act
    feed = (
        gated(c, c.intermediate_size, act, bias=bias)
        if c.use_gated_mlp
        else mlp(c, names=("up_proj", "down_proj"), bias=bias)
    )
    scales = layer_scales(c, "layer_scale1.lambda1", "layer_scale2.lambda1")
    layer = encoder_layer(mixer, feed, layer_norms(c, "norm1", "norm2"), scales, drop_path(c) or Idle(""))
    layers = sequence(repeat("layer", c.num_hidden_layers, layer), name="model")
    tables = PatchRotary("", c.hidden_size // c.num_attention_heads, 1 + c.num_register_tokens)
    return image_model(c, "dinov3_vit", sequence(begin, tables, layers, Norm("norm", c.hidden_size, "layer")))


@architecture("beit")
def beit(c: Dimensions) -> Model:
    """ViT with relative position biases and LayerScale, pre-trained on masked visual tokens (Bao et al. 2022)."""
    mask = (mask_token(c, 1, 1),) if c.use_mask_token else ()
    begin = embeddings(c, prefix={"cls_token": 1}, extra=mask, positions=c.use_absolute_position_embeddings)
    shared = Sequence("shared_position_bias", (relative_bias(c),))
    table = SharedBias("", (), shared, patch_map(c)) if c.use_shared_relative_position_bias else None
    first, later = _beit_layer(c, first=True), _beit_layer(c)
    layers = stack("layers", [first, *[later] * (c.num_hidden_layers - 1)])
    norm = None if c.use_mean_pooling else Norm("layernorm", c.hidden_size, "layer")
    pool = Norm("layernorm", c.hidden_size, "layer") if c.use_mean_pooling else None
    end = sequence(Select("", "mean" if pool else "first"), pool, name="pooler")
    body = sequence(begin, table, layers, norm)
    if class_name(c).endswith("ForMaskedImageModeling"):
        words = (Norm("layernorm", c.hidden_size, "layer"), Linear("lm_head", c.hidden_size, c.vocab_size, bias=True))
        return made(c, sequence(Sequence("beit", body.blocks), *words), "image")
    if class_name(c).endswith("ForImageClassification"):
        body = sequence(*body.blocks, end)
    return image_model(c, "beit", body, end)


def relative_bias(c: Dimensions) -> Raw:
    """A row for every distance of two patches, and three for the class token."""
    rows, columns = patch_map(c)
    return Raw("relative_position_bias_table", ((2 * rows - 1) * (2 * columns - 1) + 3, c.num_attention_heads))


def patch_map(c: Dimensions) -> tuple[int, int]:
    """Rows and columns of patches."""
    high, wide = (size // pair(c.patch_size)[0] for size in pair(c.image_size))
    return high, wide


def _beit_layer(c: Dimensions, *, first: bool = False) -> Sequence:
    """A pre-norm layer, with biases of relative positions where the config asks for them."""
    if c.use_relative_position_bias:
        table = Sequence("relative_position_bias", (relative_bias(c),))
        return BiasedLayer("", _beit_blocks(c, first=first), table, patch_map(c))
    return sequence(*_beit_blocks(c, first=first))


def _beit_blocks(c: Dimensions, *, first: bool) -> tuple[Block, ...]:
    """Its parts: norms, attention, MLP, and scales where it has them."""
    scaled = c.layer_scale_init_value > 0
    scales = layer_scales(c, "lambda_1", "lambda_2") if scaled else (None, None)
    norms = layer_norms(c, "layernorm_before", "layernorm_after")
    drop, path = dropout(c), drop_path(c, first=first)
    mixer = attention(c, "attention", k_bias=False)
    layer = encoder_layer(mixer, mlp(c), norms, scales, path if path and isinstance(drop, Idle) else drop)
    return layer.blocks
