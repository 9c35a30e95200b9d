"""What comes and goes in a step, tensor by tensor: kept when the forward pass ends, live at the peak, highest in each part.

The step is recorded once more on a Tracing tape. What each storage takes over the schedule is added up by where it comes
from, as the timeline adds it up by part, so that the rows make the timeline's figures exactly.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.explanation.kinds import Kinds, alike, merged
from memcalc.explanation.tracing import Origin, Tracing
from memcalc.explanation.values import Live, Made, Peak, Share
from memcalc.simulation import simulate
from memcalc.tape.step import Recording, record_step
from memcalc.timeline import Timeline, fates
from memcalc.timeline.overlay import Heights
from memcalc.timeline.overlay import parts as parts_laid
from memcalc.timeline.signed import signed_sizes
from memcalc.timeline.slices import Slice, schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from memcalc.model import Model
    from memcalc.plan import Plan
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tape.weights import Weights
    from memcalc.timeline.signed import Moved


class Label(NamedTuple):
    """What makes tensors like each other; `alike` is their path without numbers."""

    component: str
    kind: str
    alike: str
    operation: str
    function: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Trace:
    """A step with where its storages come from: `slices` is its log in the order of the real step, `signed` what each event
    adds or takes away, `moved` what dies with an event of another storage.
    """  # noqa: D205 - one sentence

    timeline: Timeline
    recording: Recording
    tape: Tracing
    kinds: Kinds
    slices: list[Slice]
    signed: list[int]
    moved: Moved

    def changes(self, start: int, stop: int) -> Counter[int]:
        """Bytes that a stretch of the log adds or takes away of each storage."""
        found: Counter[int] = Counter()
        for at in range(start, stop):
            event, nbytes = self.recording.events[at], self.signed[at]
            for storage, moved in self.moved.get(at, ()):
                found[storage] += moved
                nbytes -= moved
            found[event if event >= 0 else ~event] += nbytes
        return found

    def until(self, number: int, events: int = 0) -> Counter[int]:
        """Bytes of each storage that is live after `number` slices, and so many events of the next."""
        times = Counter(self.slices[:number])
        live: Counter[int] = Counter()
        for piece, count in times.items():
            for storage, nbytes in self.changes(piece.start, piece.stop).items():
                live[storage] += count * nbytes
        if events:
            start = self.slices[number].start
            for storage, nbytes in self.changes(start, start + events).items():
                live[storage] += nbytes
        return live


def trace(plan: Plan) -> Trace | None:
    """The plan's step, traced; None where it can't be simulated."""
    seen: list[tuple[Tracing, Recording]] = []

    def record(model: Model, setting: Setting, weights: Weights, attach: Callable[[Tape], Sharder | None]) -> Recording:
        tape = Tracing(setting, weights, model.context)
        seen.append((tape, record_step(model, setting, weights, attach, tape)))
        return seen[-1][1]

    timeline = simulate(plan, record)
    if timeline is None:
        return None
    tape, recording = seen[-1]
    moved: Moved = {}
    signed = signed_sizes(recording, moved)
    return Trace(timeline, recording, tape, Kinds(plan.model), schedule(recording), signed, moved)


def kept(step: Trace) -> Live:
    """What autograd and the program hold when the forward pass ends, inputs included: Timeline.activations."""
    forwards = sum(piece.phase == "forward" for piece in step.slices)
    others = step.recording.buffers | step.recording.left
    held = {storage: nbytes for storage, nbytes in step.until(forwards).items() if storage not in others}
    return _live(step, held, ["activations"] * len(step.tape.origins), _flying(step))


def at_peak(step: Trace, temporaries: Iterable[Made]) -> Live:
    """What is live at the peak beyond what persists; `temporaries` are those of the optimizer step."""
    base, own = (step.timeline.base.get(part, 0) for part in ("gradients", "buffers"))
    left = [_plain("gradients", "gradients", "left by the micro batches before", base)] if base else []
    left += [_plain("buffers", "sharding", "there all along", own)] if own else []
    if step.timeline.peak_phase == "optimizer":
        outputs = step.recording.outputs
        parts = ["activations" if storage == outputs else "gradients" for storage in range(len(step.tape.origins))]
        return _live(step, step.until(len(step.slices)), parts, (*left, *_laid(step, len(step.slices)), *temporaries))
    numbers = [i for i, piece in enumerate(step.slices) if piece.phase == step.timeline.peak_phase]
    number, events, items, _ = _highest(step, numbers)
    kinds = [str(part) for part in fates(step.recording)]
    return _live(step, step.until(number, events), kinds, (*left, *_flying(step), *_laid(step, number, items)))


def _flying(step: Trace) -> list[Made]:
    """What waits for the backward passes of other micro batches, on a stage of a pipeline."""
    kept = step.timeline.others
    return [_plain("activations", "other micro batches", "in flight on this stage", kept)] if kept else []


def _laid(step: Trace, number: int, items: int = 0) -> list[Made]:
    """What a sharding strategy has beside the log after `number` slices, and so many changes in the next, by part."""
    overlay = step.recording.overlay
    there = [item for before in range(number) for item in overlay.get(before, ())]
    sums = parts_laid([*there, *overlay.get(number, ())[:items]])
    titles = {"gradients": "gradients of this rank's part", "buffers": "gathered and reduced"}
    return [
        _plain(part, "sharding", titles.get(part, "on the way to another rank"), n) for part, n in sums.items() if n
    ]


def _plain(component: str, kind: str, operation: str, nbytes: int) -> Made:
    return Made(component=component, kind=kind, module="", path="", operation=operation, function="", shape=(), dtype="",
                times=1, each=nbytes, bytes=nbytes)  # fmt: skip


def _live(step: Trace, storages: Mapping[int, int], parts: list[str], more: Iterable[Made]) -> Live:
    """The rows of what is live, the largest first."""
    sums: Counter[Label] = Counter()
    members: dict[Label, list[Origin]] = {}
    for storage, nbytes in storages.items():
        label = _label(step, step.tape.origins[storage], parts[storage])
        sums[label] += nbytes
        members.setdefault(label, []).append(step.tape.origins[storage])
    _settle(sums)
    rows = [_made(step, label, nbytes, members[label]) for label, nbytes in sums.items() if nbytes]
    rows += [*_inputs(step), *more]
    rows.sort(key=lambda row: (-row.bytes, row.component, row.kind, row.path, row.operation, row.function, row.dtype))
    return Live(bytes=sum(row.bytes for row in rows), modules=_modules(rows), operations=tuple(rows))


def _label(step: Trace, origin: Origin, part: str) -> Label:
    kind = "sharding" if part == "buffers" else step.kinds.of(origin.path, origin.family).kind
    return Label(part, kind, alike(origin.path), origin.operation, origin.function, origin.shape, origin.dtype)


_LIKE: tuple[Callable[[Label], object], ...] = (
    lambda label: label._replace(kind=""),
    lambda label: label._replace(kind="", operation="", function=""),
    lambda label: (label.component, label.shape, label.dtype),
)


def _settle(sums: Counter[Label]) -> None:
    """Set off what one layer lets go for another that is like it but for its kind, its path or its operation.

    A record stands for several layers: where those before it differ, what it lets go is of the one it was recorded after.
    """
    for like in _LIKE:
        for label in [label for label, nbytes in sums.items() if nbytes < 0]:
            for other in list(sums):
                if sums[label] < 0 < sums[other] and like(label) == like(other):
                    taken = min(-sums[label], sums[other])
                    sums[label] += taken
                    sums[other] -= taken


def _made(step: Trace, label: Label, nbytes: int, members: list[Origin]) -> Made:
    path = merged(origin.path for origin in members)
    each = members[0].nbytes
    times = nbytes // each if nbytes % each == 0 else 1
    return Made(
        component=label.component, kind=label.kind, module=step.kinds.of(path, members[0].family).module, path=path,
        operation=label.operation, function=label.function, shape=label.shape, dtype=label.dtype, times=times,
        each=nbytes // times, bytes=nbytes,
    )  # fmt: skip


def _inputs(step: Trace) -> Iterator[Made]:
    """What was there before the step: inputs, labels, buffers that are no tensors of the model."""
    for key, nbytes in step.tape.residents.items():
        origin = step.tape.inputs[key]
        where = step.kinds.of(origin.path, origin.family)
        kind = "inputs and outputs" if origin.operation == "input" else where.kind
        yield Made(component="activations", kind=kind, module=where.module, path=origin.path, operation=origin.operation,
                   function=origin.function, shape=origin.shape, dtype=origin.dtype, times=nbytes // origin.nbytes,
                   each=origin.nbytes, bytes=nbytes)  # fmt: skip


def _modules(rows: Iterable[Made]) -> tuple[Share, ...]:
    """The rows by component and module, the largest first."""
    sums: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        sums[row.component, row.kind, row.module] += row.bytes
    shares = [Share(component=part, kind=kind, module=module, bytes=n) for (part, kind, module), n in sums.items()]
    return tuple(sorted(shares, key=lambda share: (-share.bytes, share.component, share.kind, share.module)))


def peaks(step: Trace) -> tuple[Peak, ...]:
    """The most that is live in each part of the step, the highest first."""
    last = sum(piece.phase == "forward" for piece in step.slices) - 1
    parts: dict[Any, list[int]] = {"forward": list(range(last)), "loss": [last, last + 1],
                                   "backward": list(range(last + 2, len(step.slices)))}  # fmt: skip
    if not step.recording.stacks:  # one slice each: the loss is no part of its own
        parts = {"forward": [0], "backward": [1]}
    ground = sum(step.timeline.base.values()) + step.recording.resident + step.timeline.others
    found = [Peak(part="optimizer", bytes=step.timeline.phases["optimizer"], below=0)]
    for part, numbers in parts.items():
        number, events, _, height = _highest(step, numbers)
        event = step.recording.events[step.slices[number].start + events - 1] if events else -1
        origin = step.tape.origins[event if event >= 0 else ~event] if events else None
        found.append(Peak(part=part, bytes=ground + height, below=0, path=origin.path if origin else "",
                          operation=origin.operation if origin else "", function=origin.function if origin else ""))  # fmt: skip
    most = max(peak.bytes for peak in found)
    named = [Peak(part=p.part, bytes=p.bytes, below=most - p.bytes, path=p.path, operation=p.operation, function=p.function)
             for p in found]  # fmt: skip
    return tuple(sorted(named, key=lambda peak: peak.below))


def _highest(step: Trace, numbers: Iterable[int]) -> tuple[int, int, int, int]:
    """(slice, events of it, changes laid over it, bytes above the base) where the given slices are at their highest."""
    wanted, live, cut = set(numbers), 0, Heights(step.signed)
    paths: dict[Slice, list[int]] = {}
    found: list[tuple[int, int, int, int]] = []
    for number, piece in enumerate(step.slices):
        laid = step.recording.overlay.get(number)
        if laid:
            top, end = cut.over(piece, laid)
            if number in wanted:
                stop, items = cut.peak(piece, laid)
                found.append((number, stop - piece.start, items, live + top))
            live += end
            continue
        if piece not in paths:
            paths[piece] = list(accumulate(step.signed[piece.start : piece.stop]))
        path = paths[piece]
        if number in wanted:
            found.append((number, path.index(max(path)) + 1 if path else 0, 0, live + max(0, *path, 0)))
        live += path[-1] if path else 0
    return max(found, key=lambda entry: entry[3])
