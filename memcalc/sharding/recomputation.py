"""Full recomputation in Megatron-LM: which layers run again together (transformer_block.py, _checkpointed_forward)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Stack
from memcalc.blocks.megatron import RecomputedLayers
from memcalc.sharding.pipeline import longest_stack
from memcalc.sharding.tensor_parallel import mapped

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
