"""Expert parallelism: which experts a rank holds, and which part of each (Lepikhin et al. 2020; MoE Parallel Folding)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.blocks.base import Block, Stack, mapped
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Experts, Mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Param
    from memcalc.run import Run
    from memcalc.ways import Ways


def experts_tensor(run: Run) -> int:
    """Ranks that share each expert's channels: all tensor-parallel ones, none of them under expert parallelism.

    packed_colwise and rowwise in transformers' base_model_tp_plan; torchtitan's TensorParallel of GroupedExperts, and its
    expert_tensor_parallel_degree, 1 by default.
    """
    p = run.parallel
    return p.expert_tensor or (p.tensor if p.expert == 1 else 1)


def divided_experts(block: Block, ways: Ways, refuse: Callable[[str, str], None]) -> Block:
    """A rank's experts: `count / expert` of them, each with `width / expert_tensor` channels."""
    count = expert_count(block)
    if count % ways.expert:
        refuse("parallel.expert", f"num_moe_experts ({count}) must be divisible by expert_model_parallel_size "
                                  f"({ways.expert})")  # fmt: skip
    if isinstance(block, Experts):
        return _stacked(block, ways, refuse)
    if ways.expert > 1 and ways.modules_of == "hf":
        refuse("parallel.expert", "transformers shares out experts whose weights are stacked; this model's are modules")
    if isinstance(block, Stack):
        return replace(
            block, layers=tuple(_separate(layer, ways) for layer in block.layers[: max(1, count // ways.expert)])
        )
    return block


def expert_count(block: Block) -> int:
    """How many experts a block is of: stacked, or separate MLPs."""
    return block.experts if isinstance(block, Experts) else len(block.parts())


def _stacked(block: Experts, ways: Ways, refuse: Callable[[str, str], None]) -> Experts:
    if block.width % ways.expert_tensor:
        refuse("parallel.expert_tensor", f"moe_ffn_hidden_size ({block.width}) must be a multiple of "
                                         f"expert_tensor_parallel_size ({ways.expert_tensor})")  # fmt: skip
    params = tuple(_part(block, param, ways) for param in block.params)
    return replace(
        block, experts=max(1, block.experts // ways.expert), width=block.width // ways.expert_tensor, params=params
    )


def _part(block: Experts, param: Param, ways: Ways) -> Param:
    """A stacked parameter: experts along its first axis, the inner width along the one that its place says."""
    first, *rest = param.shape
    if block.formula == "dbrx":  # [experts * width, hidden]
        return replace(param, shape=(first // (ways.expert * ways.expert_tensor), *rest))
    weights = [p.name for p in block.params if not p.name.endswith("bias")]
    inward = param.name.removesuffix("_bias") != weights[-1]
    if param.name.endswith("bias"):
        rest = [rest[0] // ways.expert_tensor] if inward else rest
    else:
        axis = int(block.transposed) if inward else int(not block.transposed)
        rest[axis] //= ways.expert_tensor
    return replace(param, shape=(first // ways.expert, *rest))


def _separate(block: Block, ways: Ways) -> Block:
    """An expert that is an MLP of its own."""
    if not isinstance(block, Mlp):
        made: Block = mapped(block, lambda part: _separate(part, ways))
        return made
    n = ways.expert_tensor
    cut: dict[str, Any] = {
        name: replace(part, outputs=part.outputs // n)
        for name in ("up", "gate")
        if isinstance(part := getattr(block, name), Linear)
    }
    down = replace(block.down, inputs=block.down.inputs // n) if isinstance(block.down, Linear) else block.down
    return replace(block, width=block.width // n, down=down, **cut)
