"""The recorded training steps, and what memcalc says of them.

`steps.json` and `kinds.json` hold one step each entry: the run in the vocabulary of a run file, and the bytes that the
real model and optimizer took (see their `source`; record.py makes them).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc import estimate
from memcalc.dataclass import dataclass
from memcalc.resolve import resolve
from memcalc.run.validation import parse_run
from memcalc.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.report import Memory, Report

FILES = ("steps.json", "kinds.json", "encoders.json", "seq2seq.json", "speech.json")
PHASE = 0.01


@dataclass(frozen=True)
class Step:
    """One recorded step: the run that it was, and its bytes."""

    model: str
    run: dict[str, Any]
    config: dict[str, Any]
    peak: int
    peak_phase: str
    after_forward: int
    reserved: int
    phases: dict[str, int]  # the most in each; empty where the row doesn't say
    parameters: int = 0  # 0 where the row doesn't say
    trainable: int = 0
    key: str = ""  # of a row of `steps`: its file and its id there

    @property
    def name(self) -> str:
        """The model and what else tells the step apart."""
        run = self.run
        length = f"x{run['seq_len']}" if "seq_len" in run else ""
        kept = "outputs kept" if run.get("keep_outputs") else ""
        mode = run.get("attention", "sdpa"), _word(run.get("checkpointing", "none"))
        words = (_recipe(run["precision"]), *mode, f"{run['batch_size']}{length}", _optimizer(run.get("optimizer", "adamw")),
                 _lora(run.get("lora")), kept, *_switches(run))  # fmt: skip
        return " · ".join((self.model, *(word for word in words if word)))


def _recipe(precision: str | dict[str, Any]) -> str:
    return precision if isinstance(precision, str) else ", ".join(f"{key} {value}" for key, value in precision.items())


def _word(checkpointing: str | dict[str, Any]) -> str:
    if isinstance(checkpointing, dict):
        return f"{checkpointing['mode']}{' reentrant' if checkpointing.get('reentrant') else ''}"
    return {"none": "", "full": "checkpointed"}.get(checkpointing, checkpointing)


def _switches(run: dict[str, Any]) -> Iterator[str]:
    """What else is switched on, in its own words."""
    for key in ("implementation", "quantize", "loss"):
        value = run.get(key)
        if isinstance(value, dict):
            value = " ".join(str(word) for word in value.values())
        yield f"{key} {value}" if value else ""
    for key in ("train", "freeze"):
        yield f"{key} {', '.join(run[key])}" if run.get(key) else ""
    yield _sharding(run)
    yield "packed" if run.get("packing") else ""
    yield "accumulating" if run.get("grad_accum", 1) > 1 else ""


def _sharding(run: dict[str, Any]) -> str:
    """The strategy, over how many GPUs, and its options."""
    sharding = dict(run.get("sharding") or {})
    if not sharding:
        return ""
    name = f"{sharding.pop('strategy')} over {run['gpus']}"
    words = (f"{'' if value is True else value} {key}".strip() for key, value in sharding.items())
    return ", ".join([name, *words])


def _optimizer(optimizer: str | dict[str, Any]) -> str:
    if isinstance(optimizer, str):
        return "no optimizer" if optimizer == "none" else optimizer
    return " ".join(str(optimizer[key]) for key in ("name", "implementation", "library") if key in optimizer)


def _lora(lora: dict[str, Any] | None) -> str:
    if not lora:
        return ""
    method, targets = lora.get("method", "LoRA"), lora.get("targets", ())
    where = targets if isinstance(targets, str) else len(targets)
    rest = "".join(f", {key} {lora[key]}" for key in ("dropout", "bias") if lora.get(key))
    return f"{method} {lora.get('rank', '')} on {where}, {lora.get('dtype', 'fp32')}{rest}"


@lru_cache(maxsize=1)
def steps() -> tuple[Step, ...]:
    """Every recorded step, in the order of the files."""
    here = Path(__file__).parent
    rows = (step for path in sorted((here / "steps").glob("*.jsonl")) for step in _lines(path))
    return (*(step for file in FILES for step in _read(here / file)), *rows)


@lru_cache(maxsize=1)
def misses() -> tuple[Step, ...]:
    """Recorded steps that memcalc is known to miss a bound on, most of them on `reserved`: kept in sight until mended."""
    return tuple(_lines(Path(__file__).with_name("misses.jsonl")))


def _lines(path: Path) -> Iterator[Step]:
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        yield Step(
            row["run"]["model"], row["run"], row["config"],
            row["peak_allocated"], row["peak_phase"], row["after_forward"], row["reserved"],
            row.get("phases", {}), row.get("parameters", 0), row.get("trainable", 0), f"{path.stem}/{row['id']}",
        )  # fmt: skip


def _read(path: Path) -> Iterator[Step]:
    document = json.loads(path.read_text("utf-8"))
    for row in document["steps"]:
        yield Step(
            row["model"], row["run"], document["configs"][row["model"]],
            row["peak"], row["peak_phase"], row["after_forward"], row["reserved"], row["phases"],
        )  # fmt: skip


def answered(step: Step) -> Report:
    """memcalc's whole answer."""
    return estimate({**step.run, "model": step.config})


def estimated(step: Step) -> Memory:
    """What memcalc says of the step's memory."""
    return answered(step).memory


def beyond(step: Step, answer: Report) -> set[str]:
    """The phases whose most is more than 1 % off, whether or not the peak is theirs; and a count of parameters."""
    most = {phase: getattr(answer.memory.phases, phase) for phase in step.phases}
    counts = {key: getattr(answer.model, key) for key in ("parameters", "trainable") if getattr(step, key)}
    return {phase for phase, found in most.items() if abs(found / step.phases[phase] - 1) > PHASE} | {
        key for key, found in counts.items() if found != getattr(step, key)
    }


@lru_cache(maxsize=1)
def known_beyond() -> dict[str, dict[str, str]]:
    """What is known to be, by step, and why: beyond.json, from which goes what is mended."""
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("beyond.json").read_text("utf-8"))
    return found


def held_after_forward(step: Step, memory: Memory) -> int:
    """What memcalc says is live when the forward pass ends; sharded steps hold gathered parameters, too."""
    if "sharding" not in step.run:
        made = (
            0 if step.run.get("grad_accum", 1) > 1 else memory.components.gradients
        )  # an earlier micro batch has left them
        return memory.persistent - made + memory.components.activations
    timeline = simulate(resolve(parse_run({**step.run, "model": step.config})))
    return timeline.after_forward if timeline else 0
