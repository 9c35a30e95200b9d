"""xLSTM: layers of a matrix memory and a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, rms
from memcalc.blocks.base import repeat, residual
from memcalc.blocks.basic import Embedding, Linear, Norm, Softcap
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.ssm import Mlstm

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("xlstm")
def xlstm(c: Dimensions) -> Model:
    """xLSTM 7B (arXiv:2503.13427): weights apart or fused as `weight_mode` says; soft-capped logits."""
    layer = (
        residual(_norm(c, "norm_mlstm"), _mixer(c), lasting=(1,)),
        residual(_norm(c, "norm_ffn"), _mlp(c), lasting=(1,)),
    )
    table = Embedding("embeddings", c.vocab_size, c.get("embedding_dim") or c.hidden_size)
    blocks = repeat("blocks", c.get("num_blocks") or c.num_hidden_layers, *layer)
    cap = Softcap("", float(c.output_logit_soft_cap), wide=True, nested=True)
    norm = rms("out_norm", c.hidden_size, "xlstm")
    return causal_lm(c, table, blocks, norm, prefix="backbone", logits=cap)


def _mixer(c: Dimensions) -> Block:
    hidden, heads, bias = c.hidden_size, c.num_heads, c.use_bias
    keys, values = int(hidden * c.qk_dim_factor), int(hidden * c.v_dim_factor)
    widths = {"q": keys, "k": keys, "v": values, "ogate_preact": values, "igate_preact": heads, "fgate_preact": heads}
    if c.weight_mode == "fused":
        widths = {"qkv_opreact": 2 * keys + 2 * values, "ifgate_preact": 2 * heads}
    projections = (Linear(name, hidden, width, bias or name.startswith(("i", "f"))) for name, width in widths.items())
    norm, out = (
        _norm(c, "multihead_norm", values),
        Linear("out_proj", values, hidden, bias),
    )
    training = str(c.mode).startswith("train")
    sizes = heads, keys // heads, values // heads, c.chunk_size
    return Mlstm("mlstm_layer", *sizes, training, tuple(projections), norm, out)


def _mlp(c: Dimensions) -> Mlp:
    hidden, bias, of = c.hidden_size, c.use_bias, c.ffn_round_up_to_multiple_of
    width = -(-int(hidden * c.ffn_proj_factor) // of) * of
    down = Linear("proj_down", width, hidden, bias)
    if c.weight_mode == "fused":
        up = Linear("proj_up_gate_z", hidden, 2 * width, bias)
        return Mlp("ffn", up, down, fused=True, width=width, formula="xlstm")
    return Mlp(
        "ffn", Linear("proj_up", hidden, width, bias), down, Linear("proj_up_gate", hidden, width, bias), width=width
    )


def _norm(c: Dimensions, name: str, width: int = 0) -> Norm:
    formula = "xlstm" if c.norm_reduction_force_float32 else "xlstm-narrow"
    return Norm(name, width or c.hidden_size, "layer" if c.use_bias else "rms", formula)
