"""Recomputation in Megatron-LM where it changes the order of modules.

Full: which layers run again together (transformer_block.py, _checkpointed_forward). Selective: norms that a linear does
not have fused into it (transformer_layer.py, recompute_input_layernorm and recompute_pre_mlp_layernorm).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Residual, Stack, mapped
from memcalc.blocks.megatron import FusedNorm, RecomputedLayers, RecomputedNorm
from memcalc.sharding.pipeline import longest_stack

if TYPE_CHECKING:
    from memcalc.ways import Recompute


def grouped(body: Block, method: Recompute, count: int) -> Block:
    """`uniform`: every `count` layers together; `block`: the first `count` one by one, the others not at all."""
    target = longest_stack(body)

    def change(block: Block) -> Block:
        if block is target and isinstance(block, Stack):
            return replace(block, layers=_layers(block.layers, method, count))
        made: Block = block if isinstance(block, Stack) else mapped(block, change)
        return made

    return change(body)


def _layers(layers: tuple[Block, ...], method: Recompute, count: int) -> tuple[Block, ...]:
    """The layers in groups, like groups as one value."""
    made: dict[tuple[int, ...], Block] = {}

    def group(members: tuple[Block, ...]) -> Block:
        return made.setdefault(tuple(map(id, members)), RecomputedLayers("", members))

    if method == "uniform":
        return tuple(group(layers[i : i + count]) for i in range(0, len(layers), count))
    return tuple(group((layer,)) if i < count else layer for i, layer in enumerate(layers))


def norms(body: Block) -> Block:
    """Each norm that stands at the beginning of a branch, together with what reads it; equal layers stay one value."""
    made: dict[int, Block] = {}

    def change(block: Block) -> Block:
        if id(block) not in made:
            made[id(block)] = _branch(block) if isinstance(block, Residual) else mapped(block, change)
        return made[id(block)]

    return change(body)


def _branch(block: Residual) -> Block:
    if isinstance(block.blocks[0], FusedNorm):
        return replace(block, blocks=(RecomputedNorm("", block.blocks),))
    return block
