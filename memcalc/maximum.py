"""The largest value of a key with which a run still fits: by bisection on the estimate, in as many dimensions as asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.errors import RunInvalid, UsageError, fault, nearest_names
from memcalc.pipeline import estimate_run, load
from memcalc.report import GpuPart
from memcalc.run.varying import all_varied, varied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from memcalc.report import Report
    from memcalc.run import Run

KEYS = ("batch_size", "seq_len", "target_len", "lora.rank", "model")
MOST = {"batch_size": 2**20, "seq_len": 2**24, "target_len": 2**24, "lora.rank": 2**14}
SWEPT = {
    "batch_size": (1, 64),
    "seq_len": (512, 131072),
    "target_len": (128, 8192),
    "lora.rank": (8, 256),
    "gpus": (1, 64),
}


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest `value` of the key at these `others`; null where not even the smallest fits.

    `headroom` is what it leaves free. `over` are the bytes that the next value (`beyond`) lacks; `bounded` says what ended
    the search: memory, the model's positions, or nothing that was tried.
    """

    others: Mapping[str, Any]
    value: int | str | None
    total: int | None
    headroom: int | None
    beyond: int | str | None
    over: int | None
    bounded: Literal["memory", "positions", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Maximum(Document):
    """The answer of `memcalc max`: for every combination of the other keys the largest value of `key`."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["max"] = "max"
    key: str
    by: tuple[str, ...]
    model: str | None
    gpu: GpuPart
    rows: tuple[Largest, ...]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether anything fits at all."""
        return any(row.value is not None for row in self.rows)


def max_fitting(
    source: Run | Mapping[str, Any] | str | Path, key: str = "batch_size", *by: str,
    sweep: Mapping[str, Iterable[Any]] | None = None,
) -> Maximum:  # fmt: skip
    """The largest `key` with which a run still fits, for every combination of the values of the keys it is asked `by`.

    `sweep` gives the values of a key; else they are doubled over a usual range. Raises what `memcalc.estimate` does.
    """
    values = {name: tuple(found) for name, found in (sweep or {}).items()}
    return load(source).answer(lambda run, beside: max_run(run, beside, key, by, values))


def max_run(
    run: Run, beside: Path | None, key: str, by: Iterable[str] = (), sweep: Mapping[str, tuple[Any, ...]] | None = None
) -> Maximum:
    """The same for a validated Run."""
    names = tuple(dict.fromkeys([*by, *(sweep or {})]))
    _known(KEYS, key)
    _known((*SWEPT, *(sweep or {})), *names)
    if run.gpu is None and "gpu" not in names:
        raise fault("gpu", "the largest of what fits where? Name a GPU, or its size: --gpu h100, --gpu 80GiB")
    _sensible(run, beside, (key, *names))
    search = _largest_model if key == "model" else _Bisection(key, beside)
    axes = [(name, tuple((sweep or {}).get(name) or _usual(name, run, beside))) for name in names if name != key]
    rows = []
    for values in product(*(found for _, found in axes)):
        others = dict(zip((name for name, _ in axes), values, strict=True))
        rows.append(search(all_varied(run, others), others, lambda made: estimate_run(made, beside)))
    first = estimate_run(run, beside) if key != "model" else None
    return Maximum(key=key, by=tuple(name for name, _ in axes), model=first.model.name if first else None,
                   gpu=first.gpu if first else GpuPart(name=run.gpu, count=run.gpus, usable=None), rows=tuple(rows),
                   run=first.run if first else {})  # fmt: skip


def _known(keys: tuple[str, ...], *names: str) -> None:
    for name in names:
        if name not in keys:
            near = nearest_names(name, keys)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"max {name}: {hint}there is {', '.join(keys)}")


def _sensible(run: Run, beside: Path | None, keys: tuple[str, ...]) -> None:
    """UsageError where a length is asked for that the model has not."""
    from memcalc.lengths import lacks  # noqa: PLC0415
    from memcalc.models import load_model  # noqa: PLC0415

    for key in keys if "model" not in keys else ():
        model = load_model(run.model, beside)
        if nothing := lacks(model, key):
            raise UsageError(f"max {key}: {model.name} has no {nothing} to lengthen; ask for batch_size")


def _usual(key: str, run: Run, beside: Path | None) -> Iterator[int]:
    """Doublings over a usual range, sequences no longer than the model's positions."""
    low, high = SWEPT.get(key, (1, 64))
    if key == "seq_len":
        high = min(high, _positions(run, beside) or high)
    value = low
    while value <= high:
        yield value
        value *= 2


def _positions(run: Run, beside: Path | None) -> int:
    from memcalc.models import load_model  # noqa: PLC0415

    return load_model(run.model, beside).context


class _Bisection:
    """The largest whole number, by doubling and halving; memory is taken to grow with it, or with fewer GPUs to shrink."""

    def __init__(self, key: str, beside: Path | None) -> None:
        self.key, self.beside = key, beside

    def __call__(self, run: Run, others: Mapping[str, Any], report: Callable[[Run], Report]) -> Largest:
        """The largest value of the key at these others."""
        known: dict[int, Report | None] = {}

        def fits(value: int) -> bool:
            if value not in known:
                known[value] = self._asked(varied(run, self.key, value), report)
            found = known[value]
            return bool(found and found.verdict.fits)

        most = self._most(run)
        low, high = 0, 1
        while high <= most and fits(high):
            low, high = high, high * 2
        high = min(high, most + 1)
        if high == most + 1 and low < most and fits(most):
            low = most
        while high - low > 1 and low < most:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return self._row(others, low, known, most)

    def _asked(self, run: Run, report: Callable[[Run], Report]) -> Report | None:
        """The report on a value; none where it is refused for being too large."""
        try:
            return report(run)
        except RunInvalid as error:
            if any(f.where.startswith(self.key) for f in error.faults):
                return None
            raise

    def _most(self, run: Run) -> int:
        if self.key == "seq_len":
            return _positions(run, self.beside) or MOST[self.key]
        return MOST[self.key]

    def _row(self, others: Mapping[str, Any], value: int, known: Mapping[int, Report | None], most: int) -> Largest:
        last, beyond = known.get(value), known.get(value + 1)
        headroom = beyond.verdict.headroom if beyond else None
        ended: Literal["memory", "positions", "nothing"] = "memory"
        if value == most:
            ended = "positions" if self.key == "seq_len" and most < MOST["seq_len"] else "nothing"
        return Largest(
            others=others, value=value or None, total=last.memory.total if last else None,
            headroom=last.verdict.headroom if last else None, beyond=value + 1 if value < most else None,
            over=-headroom if headroom is not None and headroom < 0 else None, bounded=ended,
        )  # fmt: skip


def _largest_model(run: Run, others: Mapping[str, Any], report: Callable[[Run], Report]) -> Largest:
    """The language model with the most parameters that fits, of the presets."""
    from memcalc.presets import find, names  # noqa: PLC0415

    cards = [find("models", name) for name in names("models")]
    sizes = sorted(((int(card.get("parameters") or 0), card["id"]) for card in cards), reverse=True)
    room = _room(run)
    beyond: tuple[str, int | None] | None = None
    for parameters, name in sizes:
        if parameters * _least_bytes(run) > room:
            continue
        try:
            found = report(replace(run, model=name))
        except RunInvalid:
            continue
        if any(note.code in ("activations-not-included", "tape-failed") for note in found.warnings) or not _text(name):
            continue
        if found.verdict.fits:
            return Largest(others=others, value=name, total=found.memory.total, headroom=found.verdict.headroom,
                           beyond=beyond[0] if beyond else None, over=beyond[1] if beyond else None, bounded="memory")  # fmt: skip
        beyond = name, -(found.verdict.headroom or 0)
    return Largest(others=others, value=None, total=None, headroom=None, beyond=beyond[0] if beyond else None,
                   over=beyond[1] if beyond else None, bounded="memory")  # fmt: skip


def _text(name: str) -> bool:
    from memcalc.models import load_model  # noqa: PLC0415

    return load_model(name).kind == "causal-lm"


def _room(run: Run) -> float:
    """Bytes of all GPUs together."""
    from memcalc.gpus import gpu  # noqa: PLC0415

    return gpu(run.gpu or "").usable * run.gpus


def _least_bytes(run: Run) -> float:
    """Bytes that a parameter takes at the least: half of one in four bits, two in half precision and as many of a gradient."""
    if run.quantize:
        return 0.5
    return 2.0 if run.lora else 4.0 if run.offload == "none" else 0.0
