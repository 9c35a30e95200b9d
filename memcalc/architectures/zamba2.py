"""Zamba2: Mamba-2 layers and, before some of them, one of few transformer blocks that all share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, kv_heads, rms, tokens
from memcalc.architectures.experts import per_layer
from memcalc.architectures.mamba import dual
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, residual, sequence, stack
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.shared import Shared

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Stack
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("zamba2")
def zamba2(c: Dimensions) -> Model:
    """Each shared block reads the stream beside the embeddings, twice as wide (arXiv:2411.15242).

    Without `tie_word_embeddings` the library ties nothing at all, so that every use has a block of its own.
    """
    kinds = block_types(c)
    hybrids, owners = [i for i, kind in enumerate(kinds) if kind == "hybrid"], c.num_mem_blocks
    blocks = [transformer(c, block, len(hybrids)) for block in range(min(owners, len(hybrids)))]
    mamba = residual(rms("input_layernorm", c.hidden_size), _mixer(c))
    layers: list[Block] = [mamba] * len(kinds)
    for count, index in enumerate(hybrids):
        first = f"{_prefix(c)}layers.{hybrids[count % owners]}.shared_transformer"
        block = blocks[count % owners]
        again = count >= owners and c.tie_word_embeddings
        shared = Shared("shared_transformer", Sequence("", block.blocks), first) if again else block
        linear = Linear("linear", c.hidden_size, c.hidden_size)
        layers[index] = sequence(shared, linear, sequence(mamba, name="mamba_decoder"))
    return causal_lm(c, tokens(c), stack("layers", layers), rms("final_layernorm", c.hidden_size), tie="embed_tokens")


def _prefix(c: Dimensions) -> str:
    return "" if str((c.get("architectures") or [""])[0]).endswith("Model") else "model."


def block_types(c: Dimensions) -> list[str]:
    """'linear_attention' or 'hybrid' for each layer; the class's own pattern of 54 unless listed."""
    plain, hybrid = "linear_attention", "hybrid"
    period = [plain, *[*[plain] * 5, hybrid] * 7, *[plain] * 4, hybrid, *[plain] * 3, hybrid, *[plain] * 2]
    listed = c.get("layers_block_type")
    return per_layer(c, "layers_block_type", period, count=len(listed or period))


def transformer(c: Dimensions, block: int, uses: int) -> Sequence:
    """One shared block: attention over twice the width and a gated MLP, with small adapters for each of its uses."""
    hidden, width = c.hidden_size, c.get("intermediate_size") or 4 * c.hidden_size
    mine = [use % c.num_mem_blocks == block for use in range(uses)]
    up = Linear("gate_up_proj", hidden, 2 * width, c.add_bias_linear)
    mlp = Mlp(
        "", up, Linear("down_proj", width, hidden, c.add_bias_linear), fused=True, activation=c.hidden_act, width=width
    )
    adapters = _adapters(c, "gate_up_proj_adapter_list", mine, hidden, 2 * width)
    return sequence(
        rms("input_layernorm", 2 * hidden), _attention(c, mine), rms("pre_ff_layernorm", hidden),
        sequence(mlp, adapters, name="feed_forward"), name="shared_transformer",
    )  # fmt: skip


def _attention(c: Dimensions, mine: list[bool]) -> Attention:
    wide, heads = 2 * c.hidden_size, c.num_attention_heads
    dim = wide // heads
    lists = [f"linear_{name}_adapter_list" for name in "qkv"] if c.use_shared_attention_adapter else []
    return Attention(
        "self_attn", heads, kv_heads(c), dim,
        q=Linear("q_proj", wide, heads * dim), k=Linear("k_proj", wide, kv_heads(c) * dim),
        v=Linear("v_proj", wide, kv_heads(c) * dim), out=Linear("o_proj", heads * dim, c.hidden_size),
        after=tuple(_adapters(c, name, mine, wide, wide) for name in lists),
        rotary_dim=dim if c.use_mem_rope else 0, dropout=float(c.attention_dropout or 0.0), formula="zamba2",
    )  # fmt: skip


def _adapters(c: Dimensions, name: str, mine: list[bool], inputs: int, outputs: int) -> Stack:
    """A pair of low-rank linears for each use of the block; nothing in the places of the other blocks."""
    pair = sequence(Linear("0", inputs, c.adapter_rank), Linear("1", c.adapter_rank, outputs))
    return stack(name, [pair if own else sequence() for own in mine])


def _mixer(c: Dimensions) -> Block:
    inner = int(c.mamba_expand * c.hidden_size)
    return dual(
        c, "mamba", inner, state=c.mamba_d_state, heads=c.n_mamba_heads, dim=inner // c.n_mamba_heads,
        groups=c.mamba_ngroups, chunk=c.chunk_size, kernel=c.mamba_d_conv,
        bias=c.add_bias_linear, conv_bias=True, activation="silu",
    )  # fmt: skip
