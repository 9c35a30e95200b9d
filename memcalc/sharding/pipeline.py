"""Pipeline parallelism: which layers a stage holds, and how many micro batches are in flight on it.

The table is on the first stage, what comes behind the layers on the last; a tied head on another stage has a copy of the
table. Schedules as Megatron-LM's (core/pipeline_parallel/schedules.py, get_pp_rank_microbatches), and those of the papers:
GPipe (arXiv:1811.06965), zero bubble (arXiv:2401.10241, ZB-H1), DualPipe (DeepSeek-V3, arXiv:2412.19437).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Parallel, PostNorm, Residual, Sequence, Stack, Sum, mapped
from memcalc.blocks.basic import Embedding, Linear
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, fault
from memcalc.sharding.tensor_parallel import TOWERS

if TYPE_CHECKING:
    from collections.abc import Sequence as Many

    from memcalc.run import Parallel as Degrees


@dataclass(frozen=True)
class Stage:
    """One stage: its number, the layers it holds, and what it has besides them."""

    rank: int
    layers: tuple[int, ...]
    first: bool
    last: bool


def stages(layers: int, degrees: Degrees, split: Many[int] | None = None) -> tuple[Stage, ...]:
    """Every stage of a pipeline; `split` lists how many layers each of them holds, where they are uneven.

    A virtual pipeline deals chunks of layers round: chunk c of stage r is the (c·pp + r)-th (Narayanan et al. 2021).
    DualPipe holds a second copy of the model, the other way round: stage r also has the layers of stage pp - 1 - r.
    """
    pp, virtual = degrees.pipeline, degrees.virtual
    counts = list(split) if split else _even(layers, pp * virtual)
    bounds = [sum(counts[:i]) for i in range(len(counts) + 1)]
    held = [[i for c in range(virtual) for i in range(bounds[c * pp + r], bounds[c * pp + r + 1])] for r in range(pp)]
    if degrees.schedule == "dualpipe":
        held = [ours + theirs for ours, theirs in zip(held, held[::-1], strict=True)]
        ends = {0, pp - 1}
        return tuple(Stage(r, tuple(held[r]), r in ends, r in ends) for r in range(pp))
    return tuple(Stage(r, tuple(held[r]), r == 0, r == pp - 1) for r in range(pp))


def _even(layers: int, chunks: int) -> list[int]:
    return [layers // chunks] * chunks


def uneven(layers: int, pp: int, first: int | None, last: int | None) -> list[int] | None:
    """Layers of each stage where the first or the last holds another number (decoder_first/last_pipeline_num_layers)."""
    if first is None and last is None:
        return None
    fixed = [first] if first is not None else []
    ends = [last] if last is not None else []
    middle = pp - len(fixed) - len(ends)
    rest = layers - sum(fixed) - sum(ends)
    if min(rest, middle) < 0 or bool(rest) != bool(middle):
        raise fault(
            "parallel.pipeline", f"Mismatch: {rest} middle layers remaining but {middle} middle PP stages available."
        )
    if middle and rest % middle:
        raise fault("parallel.pipeline", f"number of layers at middle stage: {rest} must be divisible by "
                                         f"the middle pipeline model parallel size {middle}")  # fmt: skip
    return [*fixed, *([rest // max(middle, 1)] * middle), *ends]


def dealt(layers: int, pp: int) -> list[int]:
    """Layers of each stage where the table and the head count as one layer each, and the first stages get what is left.

    torchtitan, distributed/pipeline_parallel.py, generate_llm_fqn_per_model_part.
    """
    every = layers + 2
    counts = [every // pp + (stage < every % pp) for stage in range(pp)]
    counts[0] -= 1
    counts[-1] -= 1
    return counts


def balanced(layers: int, pp: int, method: str) -> list[int]:
    """Layers of each stage as DeepSpeed's PipelineModule fills them, one stage after the other.

    runtime/utils.py, partition_balanced, with what `method` counts: layers ('type:transformer', Megatron-DeepSpeed's own) or
    the table and the head beside them ('type:transformer|embedding').
    """
    ends = 2 if "embed" in method else 0
    most = -(-(layers + ends) // pp)
    counts = [max(0, min(most, layers + ends - most * stage)) for stage in range(pp)]
    counts[0] -= ends // 2
    counts[-1] -= ends // 2
    return counts


def refused(layers: int, degrees: Degrees, micro_batches: int, *, split: bool) -> list[Fault]:
    """What Megatron-LM says no to."""
    pp, virtual, found = degrees.pipeline, degrees.virtual, []
    if not split and layers % (pp * virtual):
        by = "pipeline_model_parallel_size" + (" times virtual_pipeline_model_parallel_size" if virtual > 1 else "")
        found.append(
            Fault("parallel.pipeline", f"number of layers ({layers}) must be divisible by {by} ({pp * virtual})")
        )
    if (virtual > 1 or degrees.schedule == "interleaved") and pp == 1:
        found.append(
            Fault("parallel.virtual", "pipeline-model-parallel size should be greater than 1 with interleaved schedule")
        )
    if virtual > 1 and micro_batches % pp:
        found.append(Fault("grad_accum", f"number of microbatches ({micro_batches}) is not divisible by "
                                         f"pipeline-model-parallel-size ({pp}) when using interleaved schedule"))  # fmt: skip
    if degrees.schedule == "dualpipe" and (pp % 2 or virtual > 1):
        found.append(
            Fault("parallel.schedule", f"DualPipe takes an even number of stages without virtual ones; there are {pp}")
        )
    return found


def in_flight(stage: int, degrees: Degrees, micro_batches: int) -> tuple[int, int]:
    """Micro batches whose activations a stage holds at most, as (numerator, denominator).

    Chunks of a virtual stage count as parts of one.
    """
    pp, virtual, every = degrees.pipeline, degrees.virtual, max(1, micro_batches)
    match degrees.schedule:
        case "gpipe":
            return every, 1
        case "zero-bubble":  # what waits for its weight gradients fills the room that later stages have
            return min(every, pp), 1
        case "dualpipe":
            return min(2 * every, pp + 1), 2  # of half the layers that the rank holds
        case _:
            if virtual == 1:
                return min(every, pp - stage), 1
            warm = (pp - stage - 1) * 2 + (virtual - 1) * pp
            return min(every * virtual, warm + 1), virtual


def cut(body: Block, stage: Stage) -> Block:
    """The part of a model's body that one of several stages holds: a table and a head that were tied are one each."""
    return untied(_kept(body, _way_to_layers(body), stage))


def _way_to_layers(block: Block) -> dict[int, int]:
    """From each block (by identity) above the longest stack to which of its parts leads there."""
    target = longest_stack(block)
    found: dict[int, int] = {}

    def walk(at: Block) -> bool:
        if at is target:
            return True
        if isinstance(at, Stack):
            return False
        for index, part in enumerate(at.parts()):
            if walk(part):
                found[id(at)] = index
                return True
        return False

    if target is None or not walk(block):
        raise fault("parallel.pipeline", "this model has no single stack of layers to cut into stages")
    return found


def longest_stack(block: Block) -> Stack | None:
    """The stack with the most layers, those of towers for images and sounds aside."""
    if isinstance(block, TOWERS):
        return None
    best = block if isinstance(block, Stack) else None
    for _, part in () if isinstance(block, Stack) else block.groups():
        inner = longest_stack(part)
        if inner and (best is None or len(inner.layers) > len(best.layers)):
            best = inner
    return best


def _kept(block: Block, path: dict[int, int], stage: Stage) -> Block:
    if isinstance(block, Stack):
        if block.shared > 1:
            raise fault("parallel.pipeline", "layers that share their parameters can't be cut into stages")
        return replace(block, layers=tuple(block.layers[i] for i in stage.layers))
    if not isinstance(block, Sequence) or isinstance(block, Residual | PostNorm | Parallel | Sum):
        raise fault("parallel.pipeline", f"a {type(block).__name__} around the layers can't be cut into stages")
    at = path[id(block)]
    before = block.blocks[:at] if stage.first else ()
    behind = block.blocks[at + 1 :] if stage.last else ()
    return replace(block, blocks=(*before, _kept(block.blocks[at], path, stage), *behind))


def untied(block: Block) -> Block:
    """Linears that share a table have a copy of their own, as has a table that shares a linear's."""
    if isinstance(block, Linear | Embedding) and block.tied_to:
        return replace(block, tied_to="")
    if isinstance(block, Stack):
        return block
    made: Block = mapped(block, untied)
    return made
