"""Zamba and Zamba2: Mamba or Mamba-2 layers and, before some of them, one of few transformer blocks that all share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, gated_mlp, kv_heads, rms, tokens
from memcalc.architectures.experts import per_layer
from memcalc.architectures.mamba import depthwise, dt_rank, dual
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, residual, sequence, stack
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.shared import Hybrid, Shared
from memcalc.blocks.ssm import MambaHeads

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
        inner, owner = sequence(mamba, name="mamba_decoder"), first if c.tie_word_embeddings else ""
        layers[index] = Hybrid("", (shared, linear, inner), block, owner, count)
    return causal_lm(c, tokens(c), stack("layers", layers), rms("final_layernorm", c.hidden_size), tie="embed_tokens")


def _prefix(c: Dimensions) -> str:
    return "" if str((c.get("architectures") or [""])[0]).endswith("Model") else "model."


@architecture("zamba")
def zamba(c: Dimensions) -> Model:
    """One shared block for all (arXiv:2405.16712); Mamba's selection in heads, no adapters, no rotation."""
    plain, hybrid, count = "linear_attention", "hybrid", c.num_hidden_layers
    later = [hybrid if i % c.attn_layer_period == c.attn_layer_offset else plain for i in range(count - 3)]
    kinds = per_layer(c, "layers_block_type", [plain, plain, hybrid, *later])
    mamba = residual(rms("input_layernorm", c.hidden_size), _selective(c))
    block, first = _zamba_block(c), kinds.index(hybrid) if hybrid in kinds else 0
    shared = Shared("shared_transf", Sequence("", block.blocks), f"{_prefix(c)}layers.{first}.shared_transf")
    linear, inner = Linear("linear", c.hidden_size, c.hidden_size), sequence(mamba, name="mamba_decoder")
    tied = c.tie_word_embeddings
    uses = {i: block if i == first or not tied else shared for i in range(count)}
    layers: list[Block] = [
        Hybrid("", (uses[i], linear, inner), block, shared.owner if tied else "") if kind == hybrid else mamba
        for i, kind in enumerate(kinds)
    ]
    return causal_lm(c, tokens(c), stack("layers", layers), rms("final_layernorm", c.hidden_size), tie="embed_tokens")


def _zamba_block(c: Dimensions) -> Sequence:
    wide, heads, kv = c.get("attention_hidden_size") or 2 * c.hidden_size, c.num_attention_heads, kv_heads(c)
    dim = c.get("attention_head_dim") or 2 * c.hidden_size // heads
    mixer = Attention(
        "self_attn", heads, kv, dim, q=Linear("q_proj", wide, heads * dim), k=Linear("k_proj", wide, kv * dim),
        v=Linear("v_proj", wide, kv * dim), out=Linear("o_proj", heads * dim, c.hidden_size),
        dropout=float(c.attention_dropout or 0.0), formula="zamba2",
    )  # fmt: skip
    norms = rms("input_layernorm", wide), rms("pre_ff_layernorm", c.hidden_size)
    return sequence(norms[0], mixer, norms[1], gated_mlp(c, "feed_forward"), name="shared_transf")


def _selective(c: Dimensions) -> MambaHeads:
    inner, hidden = c.mamba_expand * c.hidden_size, c.hidden_size
    return MambaHeads(
        "mamba", inner, c.mamba_d_state, dt_rank(c, "mamba_dt_rank"), c.hidden_mamba_act,
        in_proj=Linear("in_proj", hidden, 2 * inner, c.mamba_proj_bias),
        conv=depthwise(inner, c.mamba_d_conv, bias=c.mamba_conv_bias),
        out_proj=Linear("out_proj", inner, hidden, c.mamba_proj_bias), heads=c.n_mamba_heads,
    )  # fmt: skip


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
