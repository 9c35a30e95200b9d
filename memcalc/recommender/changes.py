"""How far a run is from the one asked for: each change, and how intrusive it is.

The order is a practitioner's: what costs nothing, then what costs time, then what changes the numbers that are computed,
then what must be tuned anew, then what trains something else. GPUs and batches are resources, not changes of the training.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from memcalc.precision import recipe
from memcalc.recommender.legality import named
from memcalc.recommender.values import Intrusion, Level, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.optimizers import Optimizer
    from memcalc.run import Run

LEVELS: tuple[Level, ...] = get_args(Level)
COUNTED = LEVELS[2:]
RESOURCES = ("gpu", "gpus", "batch_size", "grad_accum")
KEYS = ("optimizer", "precision", "checkpointing", "attention", "loss", "implementation", "expandable_segments", "offload",
        "sharding", "parallel", "lora", "quantize", *RESOURCES)  # fmt: skip
MATRIX = (4096, 4096)  # the parameter whose state tells 8-bit optimizers from others
BASE = 100  # more changes than a run has keys


def changes(asked: Run, made: Run) -> tuple[Switch, ...]:
    """Every key in which two runs differ, the least intrusive first."""
    found = [switch(key, getattr(asked, key), getattr(made, key), asked) for key in KEYS]
    return tuple(sorted((change for change in found if change), key=lambda change: LEVELS.index(change.level)))


def intrusion(switches: tuple[Switch, ...]) -> Intrusion:
    """What these changes amount to."""
    counts = {level: sum(change.level == level for change in switches) for level in COUNTED}
    worst: Level = max((change.level for change in switches), key=LEVELS.index, default="none")
    return Intrusion(level=worst, score=score(counts), counts={str(level): count for level, count in counts.items()})


def score(counts: dict[Level, int]) -> int:
    """A number in whose digits the most intrusive level stands first."""
    return sum(counts.get(level, 0) * BASE**place for place, level in enumerate(COUNTED))


def level_of(key: str, before: Any, after: Any, several: bool) -> Level:  # noqa: ANN401 - whatever a key holds
    """How intrusive it is to change one key; `several` where more than one GPU was asked for."""
    if key in RESOURCES:
        return "resources"
    if key == "optimizer":
        return _optimizer(named(before), named(after))
    if key in ("lora", "quantize"):
        return "method"
    if key == "precision":
        return "numerics"
    if key == "checkpointing":
        return "free" if after.mode == "none" else "time"
    if key in ("attention", "loss", "implementation", "expandable_segments"):
        return "free"
    if key == "offload":
        return "free" if after == "none" else "time"
    return "time" if several or key == "parallel" else "resources"  # one GPU becoming several needs a strategy


def switch(key: str, before: Any, after: Any, asked: Run) -> Switch | None:  # noqa: ANN401
    """The change of one key, or None where it stays."""
    if before == after or (key == "sharding" and strategy_name(before, asked.gpus) == strategy_name(after, 2)):
        return None
    level = level_of(key, before, after, asked.gpus > 1)
    return Switch(path=key, before=plain(before), after=plain(after), level=level, why=_why(key, after))


def strategy_name(sharding: Any, gpus: int) -> str:  # noqa: ANN401 - a Sharding or None
    """The strategy of a run's `sharding`: ddp where several GPUs and none are named."""
    return str(sharding.strategy) if sharding else "ddp" if gpus > 1 else "none"


def _optimizer(before: Optimizer, after: Optimizer) -> Level:
    if before.name == after.name:
        return "free"
    if not after.advice.drop_in:
        return "tuning"
    if _state_bytes(before) != _state_bytes(after):
        return "numerics"
    return "time" if any(state.device != "gpu" and state.shape for state in after.states(MATRIX, "fp32")) else "free"


def _state_bytes(optimizer: Optimizer) -> int:
    return sum(state.bytes for state in optimizer.states(MATRIX, "fp32") if len(state.shape) > 0)


def _why(key: str, after: Any) -> str:  # noqa: ANN401
    """What the presets say of a choice."""
    if key == "optimizer":
        advice = named(after).advice
        return "; ".join(part for part in (advice.best_for, advice.note) if part)
    if key == "precision":
        return recipe(after).title
    return ""


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value of a run as a run file would hold it, in as few words as it takes."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    data = asdict(value)
    blank = asdict(type(value)()) if _has_blank(type(value)) else {}
    told = {key: item for key, item in data.items() if key not in blank or blank[key] != item}
    main = next((key for key in ("mode", "kind", "strategy") if key in data), None)
    if main and set(told) <= {main}:
        return data[main]
    options = told.pop("options", None) or {}
    return {**told, **options}


@lru_cache
def _has_blank(kind: type) -> bool:
    try:
        kind()
    except TypeError:
        return False
    return True


def hints(made: Run, method: str) -> Iterator[str]:
    """What is unsafe, or easily overlooked, in a run: told with every recommendation that has it."""
    chosen = recipe(made.precision)
    optimizer = named(made.optimizer)
    halves = chosen.weights in ("bf16", "fp16") and not chosen.master and not optimizer.keeps_master
    if chosen.weights == "fp16" and halves:
        yield "fp16 weights without a master copy or loss scaling: gradients under- and overflow"
    if chosen.weights == "bf16" and halves and method == "full" and "stochastic" not in chosen.name:
        yield ("bf16 weights without a master copy round small updates away: fine for a short fine-tuning, not for long "
               "pre-training")  # fmt: skip
    if chosen.autocast == "fp16" or chosen.compute == "fp16":
        yield "fp16 needs loss scaling (torch.amp.GradScaler, or the framework's)"
    if not optimizer.advice.drop_in:
        note = optimizer.advice.note or "learning rate and schedule must be tuned anew"
        yield f"{optimizer.name} is no drop-in for AdamW: {note}"
    if optimizer.frees_gradients and made.grad_accum > 1:
        yield f"{optimizer.name} uses gradients up as they come: no gradient accumulation, no clipping by the whole norm"
