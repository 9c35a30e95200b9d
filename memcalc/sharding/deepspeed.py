"""DeepSpeed: which of its optimizers a run gets, by its stage and options.

Source: DeepSpeed 0.19.8, runtime/engine.py (_configure_zero_optimizer, _do_optimizer_sanity_check: which optimizer
wraps the run's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.errors import RunInvalid
from memcalc.precision import recipe as find_recipe
from memcalc.sharding.zero_options import Offload, Settings, automatic, read, refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.model import Model
    from memcalc.run import Run
    from memcalc.sharding.strategy import Strategy
    from memcalc.sharding.zero import Zero

HALVES = frozenset({"bf16", "fp16"})


def deepspeed(name: str, given: Mapping[str, Any], ranks: int, run: Run, model: Model) -> Strategy:
    """The strategy of a run under DeepSpeed; RunInvalid with every option that is wrong or does not go together."""
    stage, dtype = int(name[-1]), find_recipe(run.precision).weights
    found = automatic({**_offloads(run), **read(name, given)}, model)
    if find_recipe(run.precision).gradients == "fp32" and dtype in HALVES:
        found.setdefault("grad_accum_dtype", "fp32")
    settings = Settings(**found)
    faults = list(refused(stage, dtype, settings, ranks))
    if faults:
        raise RunInvalid(faults)
    made = _class(stage, dtype, settings, fused=run.implementation == "megatron")
    several = run.grad_accum > 1 or run.implementation == "megatron"  # whose modules add to gradients that are there
    away = _away(stage, dtype, settings)
    return made(name, ranks, away, stage, dtype, settings, several, run.parallel.tensor > 1)


def _class(stage: int, dtype: str, settings: Settings, *, fused: bool = False) -> type[Zero]:
    """The module of a stage (engine.py, _do_optimizer_sanity_check and _configure_zero_optimizer)."""
    if stage == 0:
        from memcalc.sharding.zero0 import Flattened, ZeroZero  # noqa: PLC0415 - one module a run

        return Flattened if fused and dtype in HALVES else ZeroZero
    if stage == 3:
        from memcalc.sharding.zero3 import ZeroThree  # noqa: PLC0415

        return ZeroThree
    from memcalc.sharding.zero12 import Bf16Optimizer, ZeroOneTwo  # noqa: PLC0415

    wide = dtype == "bf16" and settings.grad_accum_dtype == "fp32" and settings.offload_optimizer.device == "none"
    return Bf16Optimizer if stage == 1 and wide else ZeroOneTwo


def _offloads(run: Run) -> dict[str, Offload]:
    """The run's own key `offload` in DeepSpeed's words."""
    sections = {"optimizer": ("offload_optimizer",), "optimizer+params": ("offload_optimizer", "offload_param")}
    counts = {"offload_optimizer": 4, "offload_param": 5}
    return {name: Offload("cpu", buffer_count=counts[name]) for name in sections.get(run.offload, ())}


def _away(stage: int, dtype: str, settings: Settings) -> frozenset[str]:
    """What is not on the GPU between steps: all of a component; Twin-Flow's sub-groups on the GPU are told apart elsewhere.

    Gradients of stage 2 stay where they are added up in fp32 in a buffer of their own.
    """
    found = set()
    if settings.offload_optimizer.device != "none" and settings.offload_optimizer.ratio == 1:
        found |= {"master_weights", "optimizer_states"}
        compact = stage == 2 and settings.grad_accum_dtype not in ("", dtype)
        found |= {"gradients"} if stage > 1 and not compact else set()
    if settings.offload_param.device != "none":
        found.add("weights")
    return frozenset(found)
