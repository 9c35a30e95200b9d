"""Sharding: what each GPU holds, and what it gathers and communicates, under data-parallel strategies.

`placement` makes the strategy of a run; only the module of that strategy is loaded. A strategy over one rank is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc import frames
from memcalc.errors import fault

frames.install()  # before any of its modules is loaded

from memcalc.sharding.strategy import Strategy  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from memcalc.model import Model
    from memcalc.run import Run

__all__ = ["Strategy", "placement"]

OFFLOADED = {
    "optimizer": frozenset({"master_weights", "optimizer_states"}),
    "optimizer+params": frozenset({"master_weights", "optimizer_states", "weights"}),
}


def placement(run: Run, model: Model) -> Strategy:
    """The strategy of a run; ddp where several GPUs and no strategy are named. RunInvalid lists what it has no option for."""
    parallel = run.parallel
    ranks = max(1, run.gpus // (parallel.tensor * parallel.pipeline))  # context-parallel ranks share parameters, too
    name = run.sharding.strategy if run.sharding else "ddp" if ranks > 1 else "none"
    made = _made(name, run.sharding.options if run.sharding else {}, ranks, run, model)
    flattens = name.startswith("zero") and run.gpus > 1  # over one rank of a divided model, too
    if ranks > 1 or name == "megatron" or flattens or made.alone:
        return made
    return Strategy(offloaded=OFFLOADED.get(run.offload, frozenset()))


def _made(name: str, options: Mapping[str, Any], ranks: int, run: Run, model: Model) -> Strategy:
    """One module for each framework; each reads its own options."""
    offloaded = OFFLOADED.get(run.offload, frozenset())
    match name:
        case "none":
            if options:
                raise fault(
                    "sharding", f"no strategy is named for the options {', '.join(options)}; add strategy: fsdp"
                )
            return Strategy("none", ranks, offloaded)
        case "zero0" | "zero1" | "zero2" | "zero3":
            from memcalc.sharding.deepspeed import deepspeed  # noqa: PLC0415 - one module a run

            return deepspeed(name, options, ranks, run, model)
        case "ddp":
            from memcalc.sharding.ddp import from_options  # noqa: PLC0415

            return from_options(options, ranks, offloaded, micro_batches=run.grad_accum)
        case "fsdp" | "hsdp":
            from memcalc.sharding.fsdp import fully_sharded  # noqa: PLC0415

            return fully_sharded(name, options, ranks, run, model)
        case "megatron":
            from memcalc.sharding.megatron import strategy  # noqa: PLC0415

            return strategy(run, options, model)
        case _:
            return Strategy(name, ranks, offloaded)
