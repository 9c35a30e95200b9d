"""Which runs are legal: what frameworks combine, what a GPU has formats and kernels for, which optimizers go with a shape."""

from __future__ import annotations

from functools import lru_cache
from math import lcm
from typing import TYPE_CHECKING

from memcalc.optimizers import resolve
from memcalc.precision import recipe

if TYPE_CHECKING:
    from memcalc.gpus import Gpu
    from memcalc.optimizers import Optimizer
    from memcalc.precision import Recipe
    from memcalc.run import Run, Spec

STANDINS = ("mixed-fp16", "amp-fp16")  # for GPUs without bf16
CUDA = frozenset({"nvidia", "amd", "intel"})  # whose devices bitsandbytes has kernels for
FUSED = frozenset({"nvidia", "amd"})  # whose devices flash-attn and Liger's kernels run on
WITH_PARALLEL = frozenset({"none", "ddp", "fsdp", "megatron"})  # strategies that libraries combine with a divided model
OFFLOADING = frozenset({"zero1", "zero2", "zero3", "fsdp", "hsdp"})


def degrees(run: Run) -> int:
    """How many GPUs hold one replica of the model between them."""
    return run.parallel.tensor * run.parallel.pipeline * run.parallel.context


def fewest(run: Run) -> int:
    """The least number of GPUs on which Megatron-LM lays out a run: every stage's experts share those of its dense layers."""
    p = run.parallel
    return p.pipeline * lcm(p.tensor * p.context, p.expert * (p.expert_tensor or p.tensor))


def divided(run: Run) -> bool:
    """Whether they hold different parts of it."""
    return run.implementation == "megatron" or degrees(run) > 1


def data_parallel(run: Run) -> int:
    """How many micro batches run side by side."""
    return max(1, run.gpus // degrees(run))


def legal(shape: Run, base: Run) -> bool:
    """Whether frameworks run such a shape at all; what one of them refuses for reasons of its own, `resolve` says.

    The kernels and the loss of `base` go together: a trainer chose them (LLaMA-Factory, Axolotl and TRL with Liger's).
    """
    strategy = shape.sharding.strategy if shape.sharding else "ddp" if shape.gpus > 1 else "none"
    one = degrees(shape)
    if shape.gpus % one or (shape.gpus > 1 and strategy == "none" and one < shape.gpus):
        return False
    if one > 1 and strategy not in WITH_PARALLEL and shape.sharding != base.sharding:
        return False
    own = (shape.implementation, shape.loss) == (base.implementation, base.loss)
    if shape.implementation == "hf-liger" and shape.loss.kind != "standard" and not own:
        return False  # its kernels have a loss of their own
    if shape.offload.startswith("optimizer") and shape.gpus > 1 and strategy not in OFFLOADING:
        return False
    return not (shape.quantize and strategy in ("zero1", "zero2", "zero3"))


@lru_cache(maxsize=256)
def named_once(name: str) -> Optimizer:
    """The optimizer of a plain name."""
    return resolve(name)


@lru_cache(maxsize=256)
def recipe_once(name: str) -> Recipe:
    """The recipe of a plain name."""
    return recipe(name)


def recipe_of(spec: Spec) -> Recipe:
    """The recipe of a run's `precision`."""
    return recipe_once(spec) if isinstance(spec, str) else recipe(spec)


def named(spec: Spec) -> Optimizer:
    """The optimizer of a run's `optimizer`."""
    return named_once(spec) if isinstance(spec, str) else resolve(dict(spec))


def runs_on(shape: Run, card: Gpu, base: Run) -> bool:
    """Whether a GPU has the formats and kernels that a shape asks for; fp16 is for those that have no bf16, or was asked for."""
    chosen = recipe_of(shape.precision)
    if "bf16" in (chosen.weights, chosen.compute, chosen.autocast) and not card.bf16:
        return False
    if card.bf16 and shape.precision in STANDINS and shape.precision != base.precision:
        return False
    if not card.vendor:  # a bare size
        return True
    if shape.expandable_segments and card.vendor not in FUSED:
        return False
    if shape.attention == "flash" and not flash_runs_on(card):
        return False
    return card.vendor in FUSED or (shape.implementation != "hf-liger" and shape.loss.kind == "standard")


def flash_runs_on(card: Gpu) -> bool:
    """flash-attn 2 asks for Ampere or newer, or AMD's CDNA (its README)."""
    if card.vendor == "nvidia":
        return tuple(int(part) for part in card.capability.split(".")) >= (8, 0)
    return card.vendor == "amd" and card.arch.startswith("cdna")


def goes_with(spec: Spec, shape: Run, card: Gpu) -> bool:
    """Whether an optimizer has kernels for the GPU, and steps what the strategy leaves of the parameters.

    bitsandbytes' kernels know no DTensor: FSDP2 wants torchao's; DeepSpeed's offload has an optimizer of its own.
    """
    found = named(spec)
    if found.library == "bitsandbytes" and card.vendor and card.vendor not in CUDA:
        return False
    strategy = shape.sharding.strategy if shape.sharding else "none"
    if strategy in ("fsdp", "hsdp") and found.library == "bitsandbytes":
        return False
    if found.frees_gradients and (shape.grad_accum > 1 or strategy not in ("none", "ddp")):
        return False
    return not (shape.offload.startswith("optimizer") and found.library not in ("torch", "deepspeed"))
