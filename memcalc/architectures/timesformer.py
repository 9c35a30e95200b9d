"""TimeSformer: a ViT that attends along time, then within every frame (Bertasius et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.video import classified
from memcalc.architectures.vision import drop_path, dropout, grid, layer_norms, patches
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Linear, Norm, Raw, Select
from memcalc.blocks.space_time import FrameEmbeddings, SpaceTimeLayer

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("timesformer")
def timesformer(c: Dimensions) -> Model:
    """Patches of every frame with positions, then a table of times; layers of two attentions where they are divided."""
    hidden, timed = c.hidden_size, c.attention_type != "space_only"
    times = Raw("time_embeddings", (1, c.num_frames, hidden)) if timed else None
    start = FrameEmbeddings(
        "embeddings", sequence(patches(c, "projection"), name="patch_embeddings"), Raw("cls_token", (1, 1, hidden)),
        Raw("position_embeddings", (1, grid(c) + 1, hidden)), times, dropout(c), c.num_frames,
    )  # fmt: skip
    layers = sequence(repeat("layer", c.num_hidden_layers, _layer(c)), name="encoder")
    body = sequence(start, layers, Norm("layernorm", hidden, "layer"))
    return classified(c, "timesformer", body, Select(""))


def _layer(c: Dimensions) -> Block:
    before, after = layer_norms(c, "layernorm_before", "layernorm_after")
    if c.attention_type != "divided_space_time":
        drop = drop_path(c)
        mixed = residual(before, _attention(c, "attention"), drop, lasting=(1,))
        return sequence(mixed, residual(after, *_mlp(c), drop))
    hidden = c.hidden_size
    return SpaceTimeLayer(
        "", Norm("temporal_layernorm", hidden, "layer"), _attention(c, "temporal_attention"),
        Linear("temporal_dense", hidden, hidden, bias=True), before, _attention(c, "attention"),
        sequence(after, *_mlp(c)), drop_path(c), c.num_frames,
    )  # fmt: skip


def _mlp(c: Dimensions) -> tuple[Block, ...]:
    """Two modules, each of which is given what has a name until it returns."""
    up = Linear("intermediate.dense", c.hidden_size, c.intermediate_size, bias=True)
    down = Linear("output.dense", c.intermediate_size, c.hidden_size, bias=True)
    return sequence(up, Activation("", c.hidden_act), dropout(c)), sequence(down, dropout(c))


def _attention(c: Dimensions, name: str) -> Attention:
    hidden, heads = c.hidden_size, c.num_attention_heads
    return Attention(
        name, heads, heads, hidden // heads, qkv=Linear("attention.qkv", hidden, 3 * hidden, bool(c.qkv_bias)),
        out=Linear("output.dense", hidden, hidden, bias=True), causal=False, dropout=float(c.attention_probs_dropout_prob),
        out_dropout=float(c.hidden_dropout_prob), softmax="scores", formula="timesformer",
    )  # fmt: skip
