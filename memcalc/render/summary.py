"""What every human-readable format says of a report, in words: title, rows, verdict, notes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.units import format_count

if TYPE_CHECKING:
    from memcalc.explanation.values import Explanation
    from memcalc.report import Report
    from memcalc.verifying.values import Verification

TITLES = {
    "weights": "weights",
    "master_weights": "master weights",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
    "activations": "activations",
    "buffers": "communication buffers",
    "temporary": "temporaries",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: what, bytes, and its share of the whole."""

    title: str
    bytes: int
    share: float


def name_of(spec: Any) -> str:  # noqa: ANN401 - a preset's name or a mapping with one
    """A preset's name, with what was changed behind it."""
    if not isinstance(spec, dict):
        return str(spec)
    name = next(
        (spec[key] for key in ("name", "recipe", "preset", "kind", "mode", "strategy") if key in spec), "custom"
    )
    more = [f"{k}={v}" for k, v in spec.items() if v != name and v not in ({}, None)]
    return f"{name} ({', '.join(more)})" if more else str(name)


def headline(report: Report | Explanation | Verification) -> str:
    """llama-2-7b · adamw-8bit · mixed-bf16 · 8 x h100-80gb (zero2)."""
    run, gpu = report.run, report.gpu
    where = f"{gpu.count} x {gpu.name}" if gpu.name else f"{gpu.count} GPUs" if gpu.count > 1 else ""
    sharding = run["sharding"]["strategy"]
    spread = f"{where} ({sharding})" if where and sharding != "none" else where
    parts = [report.model.name, name_of(run["optimizer"]), name_of(run["precision"]), spread]
    return " · ".join(part for part in parts if part)


def subtitle(report: Report | Explanation) -> str:
    """Parameters, what of them is trained, and the batch with its images."""
    model, run = report.model, report.run
    trained = "all trained" if model.trainable == model.parameters else f"{format_count(model.trainable)} trained"
    active = f", {format_count(model.active)} active" if model.active != model.parameters else ""
    lora = f" · {_adapter(run['lora'])}" if run.get("lora") else ""
    stored = f" · base in {name_of(run['quantize'])}" if run.get("quantize") else ""
    length = f" x {run['seq_len']} {_counted(report)}" if run["seq_len"] else ""
    length += ", packed" if run.get("packing") else ""
    length += _pictures(report)
    length += "".join(f" · beside it {_companion(one)}" for one in run.get("companions") or ())
    return (f"{format_count(model.parameters)} parameters{active}, {trained}{lora}{stored}"
            f" · batch {run['batch_size']}{length}")  # fmt: skip


def _counted(report: Report | Explanation) -> str:
    """What a sequence is counted in: tokens, unless it is of sound."""
    return next((note.code for note in report.assumptions if note.code in ("samples", "frames")), "tokens")


def _companion(companion: dict[str, Any]) -> str:
    """Its role, and its model's name where it has one of its own."""
    model = companion.get("model", "same")
    return f"{companion['role']} {model}" if isinstance(model, str) and model != "same" else str(companion["role"])


def _pictures(report: Report | Explanation) -> str:
    """How many images or videos a sequence holds, and their size in frames and pixels, as far as the run says it."""
    run, assumed = report.run, {(note.path, note.code) for note in report.assumptions}
    count = 1 if ("images", "default") in assumed else run.get("images")
    if count == 0 or (count is None and ("images", "text-alone") in assumed):
        return ""
    frames, sides = run.get("frames"), run.get("image_size")
    size = f" of {frames} frames" if frames else ""
    size += f" of {sides[0]} x {sides[1]}" if sides else ""
    kind = "video" if frames else "image"
    if count is None:
        return f", {kind}s{size}" if size else ""
    return f", {count} {kind}{'s' * (count > 1)}{size} each"


def _adapter(lora: dict[str, Any]) -> str:
    method = "dora" if lora["dora"] else lora["method"]
    return f"{method} rank {lora['rank']}" if lora["rank"] else str(method)


def rows(report: Report) -> list[Row]:
    """What the peak is made of, then what is outside PyTorch's allocator, with their share of the total."""
    memory = report.memory
    whole = max(memory.total, 1)
    items = [(TITLES[k], v) for k, v in asdict(memory.at_peak).items() if v]
    slack = memory.reserved - memory.peak_allocated
    items += [("allocator's cache", slack)] if slack else []
    items += [("CUDA context", memory.outside_allocator.context)] if memory.outside_allocator.context else []
    items += (
        [("communicators", memory.outside_allocator.communicators)] if memory.outside_allocator.communicators else []
    )
    return [Row(title, size, size / whole) for title, size in items]


def mark(report: Report) -> str:
    """The verdict's sign."""
    return {"fits": "✓ fits:", "tight": "! tight:", "too-big": "✗ too big:", "unknown": "?"}[report.verdict.level]
