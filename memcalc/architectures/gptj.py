"""GPT-J and CodeGen: attention and MLP side by side behind one LayerNorm, rotary positions on part of each head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, dropout, fused_attention, layer_norm, plain_mlp, tokens
from memcalc.architectures.heads import labels
from memcalc.blocks.base import parallel, repeat, sequence

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gptj")
def gptj(c: Dimensions) -> Model:
    """x + attention(norm(x)) + mlp(norm(x)); only the MLP and the head have biases (Wang & Komatsuzaki 2021)."""
    rotary = c.get("rotary_dim") or c.hidden_size // c.num_attention_heads
    mixer = attention(
        c,
        "attn",
        out="out_proj",
        rotary_dim=rotary,
        dropout=float(c.attn_pdrop),
        rotation="own",
        formula="gptj",
    )
    return frame(c, mixer)


@architecture("codegen")
def codegen(c: Dimensions) -> Model:
    """GPT-J with one projection for q, k and v (Nijkamp et al. 2022)."""
    mixer = fused_attention(
        c, "attn", "qkv_proj", "out_proj", rotary_dim=c.rotary_dim, rotation="own", dropout=float(c.attn_pdrop),
        formula="codegen",
    )  # fmt: skip
    return frame(c, mixer)


def frame(c: Dimensions, mixer: Block) -> Model:
    """GPT-J around its attention."""
    mlp = plain_mlp(c, "fc_in", "fc_out", c.get("n_inner") or 4 * c.hidden_size)
    layer = parallel(
        sequence(mixer, dropout(c, "resid_pdrop")),
        sequence(mlp, dropout(c, "resid_pdrop")),
        norm=layer_norm("ln_1", c.hidden_size),
    )
    return causal_lm(
        c,
        tokens(c, "wte"),
        dropout(c, "embd_pdrop"),
        repeat("h", c.num_hidden_layers, layer),
        layer_norm("ln_f", c.hidden_size),
        prefix="transformer", tie="wte", head_bias=True, qa_outputs=labels(c),
    )  # fmt: skip
