"""Wav2Vec2-BERT: conformer layers over mel frames (Seamless Communication 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import task, with_head
from memcalc.architectures.speech_heads import CAPTURING, behind, ctc_width, speech_heads
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, Stack, Sum, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Raw, Scale
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Surrounded
from memcalc.blocks.speech import ChannelsFirst, ConformerConvolution, FeatureProjection

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("wav2vec2-bert")
def wav2vec2_bert(c: Dimensions) -> Model:
    """A projection of the frames, conformer layers, and an adapter that shortens the sequence where there is one."""
    width, hidden = c.feature_projection_input_dim, c.hidden_size
    projection = (
        layer_norm("layer_norm", width), Linear("projection", width, hidden, bias=True),
        Dropout("", float(c.feat_proj_dropout)),
    )  # fmt: skip
    project = FeatureProjection("feature_projection", projection, yields=True, frames=width)
    masked = c.mask_time_prob > 0 or c.mask_feature_prob > 0
    layers = Stack("layers", (layer(c),) * c.num_hidden_layers, captured=task(c) in CAPTURING)
    half = residual(_feed_forward(c, "intermediate_ffn", hidden, "relu"), Scale(""))
    base = sequence(
        project, Raw("masked_spec_embed", (hidden,)) if masked else None,
        Surrounded("encoder", (Dropout("", float(c.hidden_dropout)), layers)),
        behind(c, half if c.use_intermediate_ffn_before_adapter else None, _adapter(c) if c.add_adapter else None),
    )  # fmt: skip
    return with_head(c, "wav2vec2_bert", base, speech_heads(c), kind="speech", context=0)


def _norm(name: str, width: int) -> Norm:
    return layer_norm(name, width)


def layer(c: Dimensions, *, causal: bool = True) -> Sequence:
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (Gulati et al. 2020)."""
    hidden = c.hidden_size
    first, last = (
        residual(
            _norm(f"{name}_layer_norm", hidden), _feed_forward(c, name, hidden, c.hidden_act), Scale(""), named=(1,)
        )
        for name in ("ffn1", "ffn2")
    )
    mixer = residual(
        _norm("self_attn_layer_norm", hidden), _attention(c, hidden), Dropout("", float(c.attention_dropout))
    )
    return sequence(first, mixer, residual(_convolution(c, causal=causal)), last, _norm("final_layer_norm", hidden))


def _feed_forward(c: Dimensions, name: str, hidden: int, activation: str) -> Sequence:
    up = Linear(f"{name}.intermediate_dense", hidden, c.intermediate_size, bias=True)
    down = Linear(f"{name}.output_dense", c.intermediate_size, hidden, bias=True)
    mlp = Mlp("", up, down, activation=activation, width=c.intermediate_size, dropout=float(c.activation_dropout))
    return sequence(mlp, Dropout("", float(c.hidden_dropout)))


def _convolution(c: Dimensions, *, causal: bool = True) -> ConformerConvolution:
    """The convolution module, over past frames with a LayerNorm in it, or over both sides with a batch norm."""
    hidden, size = c.hidden_size, c.conv_depthwise_kernel_size
    padding = 0 if causal else size // 2
    blocks = (
        _norm("layer_norm", hidden), Conv("pointwise_conv1", hidden, 2 * hidden, bias=False),
        Conv("depthwise_conv", hidden, hidden, (size,), conv_groups=hidden, bias=False, padding=padding),
        _norm("depthwise_layer_norm", hidden) if causal else Norm("batch_norm", hidden, "batch", "batch"),
        Activation("", c.hidden_act),
        Conv("pointwise_conv2", hidden, hidden, bias=False), Dropout("", float(c.conformer_conv_dropout)),
    )  # fmt: skip
    return ConformerConvolution("conv_module", blocks, ahead=size - 1 if causal else 0, turned=causal)


def _attention(c: Dimensions, hidden: int, *, positions: bool = True) -> Attention:
    """Positions as embeddings of distances ('relative_key'), projected sinusoids ('relative'), rotations, or none."""
    heads = c.num_attention_heads
    head, kind = hidden // heads, c.position_embeddings_type if positions else None
    more: dict[str, Any] = {}
    if kind == "relative_key":
        rows = c.left_max_position_embeddings + c.right_max_position_embeddings + 1
        more = {"scores_bias": True, "bias_table": Embedding("distance_embedding", rows, head, index="distances")}
    elif kind == "relative":
        biases = (Param("pos_bias_u", (heads, head)), Param("pos_bias_v", (heads, head)))
        table, places = Linear("linear_pos", hidden, hidden), int(c.max_source_positions)
        more = {"scores_bias": True, "bias_table": table, "extra": biases, "positions": places}
    return Attention(
        "self_attn", heads, heads, head,
        q=Linear("linear_q", hidden, hidden, bias=True),
        k=Linear("linear_k", hidden, hidden, bias=True),
        v=Linear("linear_v", hidden, hidden, bias=True),
        out=Linear("linear_out", hidden, hidden, bias=True), causal=False, dropout=float(c.attention_dropout), softmax="scores",
        rotary_dim=head if kind == "rotary" else 0, formula=f"conformer-{kind}" if kind else "", **more,
    )  # fmt: skip


def _adapter(c: Dimensions) -> Sequence:
    """Layers whose two inputs are strided convolutions of theirs (Wav2Vec2BertAdapterLayer)."""
    width = ctc_width(c)
    narrow = (Linear("proj", c.hidden_size, width, bias=True), _norm("proj_layer_norm", width))
    one = _adapter_layer(c, width)
    layers = Stack("layers", (one,) * c.num_adapter_layers, recompute="never", resizing=True)
    return sequence(*(narrow if width != c.hidden_size else ()), layers, name="adapter")


def _adapter_layer(c: Dimensions, width: int) -> Sequence:
    def shorten(name: str) -> tuple[Block, ...]:
        size, stride = c.adapter_kernel_size, c.adapter_stride
        conv = Conv(f"{name}_conv", width, 2 * width, (size,), stride, padding=stride // 2)
        return (_norm(f"{name}_layer_norm", width), ChannelsFirst("", (conv, Activation("", "glu"))))

    mixer = (_attention(c, width, positions=False), Dropout("", float(c.conformer_conv_dropout)))
    return sequence(
        Sum("", (Sequence("", shorten("residual")), Sequence("", (*shorten("self_attn"), *mixer)))),
        residual(_norm("ffn_layer_norm", width), _feed_forward(c, "ffn", width, c.adapter_act)),
    )
