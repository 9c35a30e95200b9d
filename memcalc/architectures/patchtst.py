"""PatchTST: a transformer over patches of each channel of a time series (Nie et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels, task
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Dropout, Linear, Norm, Select
from memcalc.blocks.image import Flatten, Positions
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Encoder
from memcalc.blocks.series import JoinChannels, SeriesPatches
from memcalc.blocks.speech import ChannelsFirst
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

PLAIN = {"channel_attention": False, "use_cls_token": False, "share_embedding": True, "share_projection": True}


@architecture("patchtst")
def patchtst(c: Dimensions) -> Model:
    """Channels are told apart by nothing but their numbers; the input is `context_length` steps of all of them."""
    for key, value in PLAIN.items():
        if bool(c[key]) != value:
            raise fault(f"model.{key}", f"only {str(value).lower()} is known")
    name = task(c)
    if name == "ForPrediction" and c.loss != "mse":
        raise fault("model.loss", "only mse is known")
    layers = repeat("encoder.layers", c.num_hidden_layers, _layer(c))
    base = Encoder(
        "" if name == "Model" else "model",
        (*_patches(c, name), layers),
        source=(c.context_length, c.num_input_channels),
    )
    body = sequence(base, *_head(c, name))
    return Model(body, kind="encoder" if name == "Model" else "classifier", loss_fp32=False)


def _count(c: Dimensions) -> int:
    return int((max(c.context_length, c.patch_length) - c.patch_length) // c.patch_stride + 1)


def _patches(c: Dimensions, name: str) -> tuple[Block, ...]:
    masked = bool(c.get("do_mask_input")) or name == "ForPretraining"
    embed = Linear("encoder.embedder.input_embedding", c.patch_length, c.d_model, bias=True)
    learned = c.positional_encoding_type == "random"
    return (
        SeriesPatches("", c.patch_length, c.patch_stride, bool(c.scaling), masked, embed),
        Positions("encoder.positional_encoder.position_enc", (_count(c), c.d_model), trainable=learned),
        Dropout("", float(c.positional_dropout)),
    )  # fmt: skip


def _layer(c: Dimensions) -> Sequence:
    """Batch norms over time, before (or behind) attention and feed-forward."""
    width, heads, drop = c.d_model, c.num_attention_heads, Dropout("", float(c.path_dropout))
    q, k, v, out = (Linear(f"{name}_proj", width, width, bool(c.bias)) for name in ("q", "k", "v", "out"))
    mixer = Attention(
        "self_attn", heads, heads, channels(width, heads), q, k, v, out=out, causal=False, dropout=float(c.attention_dropout),
        softmax="scores",
    )  # fmt: skip
    up, down = Linear("0", width, c.ffn_dim, bool(c.bias)), Linear("3", c.ffn_dim, width, bool(c.bias))
    feed = Mlp("ff", up, down, activation=c.activation_function, width=c.ffn_dim, dropout=float(c.ff_dropout))
    first, last = _norm(c, "norm_sublayer1"), _norm(c, "norm_sublayer3")
    if c.pre_norm:
        return sequence(residual(first, mixer, drop, lasting=(1,)), residual(last, feed, drop))
    return sequence(residual(mixer, drop, lasting=(0,)), first, residual(feed, drop), last)


def _norm(c: Dimensions, name: str) -> Block:
    if c.norm_type == "layernorm":
        return Norm(name, c.d_model, "layer")
    return ChannelsFirst(name, (Norm("batchnorm", c.d_model, "batch", "batch"),))


def _head(c: Dimensions, name: str) -> tuple[Block, ...]:
    pool, width = Select("", "mean") if c.get("pooling_type") else Flatten("", whole=True), c.d_model
    drop, every = Dropout("", float(c.head_dropout)), c.num_input_channels
    match name:
        case "Model":
            return ()
        case "ForPrediction":
            inner = width if c.get("pooling_type") else width * _count(c)
            return pool, drop, Linear("head.projection", inner, c.prediction_length, bias=True)
        case "ForClassification":
            return pool, JoinChannels("", every), drop, Linear("head.linear", every * width, c.num_targets, bias=True)
        case "ForRegression":
            return (
                pool,
                JoinChannels("", every),
                drop,
                Linear("head.projection", every * width, c.num_targets, bias=True),
            )
        case "ForPretraining":
            return drop, Linear("head.linear", width, c.patch_length, bias=True)
    raise fault("model.architectures", f"a patchtst with the head {name!r} is not known")
