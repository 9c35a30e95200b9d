"""From a recorded tape to bytes over time: live bytes at every event, the peaks, and what they are made of.

The tape records one layer of each kind; here the record of a layer takes the place of all that are like it, so that a
model of a hundred layers costs no more than its description.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.known import Known
from memcalc.tape.laid import PARTS
from memcalc.timeline.curve import EMPTY, Curve, curve
from memcalc.timeline.overlay import Heights, alone, part_of, spread
from memcalc.timeline.overlay import parts as parts_laid
from memcalc.timeline.signed import signed_sizes
from memcalc.timeline.slices import Phase, Slice, schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memcalc.replay.reserve import Replay
    from memcalc.tape.laid import Overlay, Part
    from memcalc.tape.step import Recording
    from memcalc.timeline.signed import Moved


@dataclass(frozen=True)
class Timeline:
    """One training step in bytes. `base` is there all along; the rest comes on top, and is included in every figure.

    * `phases` holds each phase's own maximum, `peak` the largest of them; `at_peak` adds up to `peak` exactly.
    * `activations` is what autograd and the program hold when the forward pass ends, beyond the base, inputs included;
      `pinned` is what of them waits in host memory.
    * `buffers` is what a sharding strategy gathers and communicates in, at its highest; `others` is what other micro
      batches in flight keep.
    * `aside` is how many more bytes than `after_forward` are there where a reference or a teacher runs; `resident` what is
      there all along of inputs and buffers, beside the base.
    * What takes longer to find is found when it is asked for: `replay` what the allocator reserves, `told` what that is
      replayed from, `draw` the curve, `compose` what each phase's maximum is made of.
    """

    base: Mapping[str, int]
    phases: Mapping[Phase, int]
    peak: int
    peak_phase: Phase
    at_peak: Mapping[str, int]
    activations: int
    after_forward: int
    after_backward: int
    gradients: int
    step_temporaries: int
    buffers: int = 0
    unmodelled: tuple[str, ...] = field(default=())
    pinned: int = 0
    others: int = 0
    aside: int = 0
    resident: int = 0
    replay: Callable[[], int] = int
    told: Callable[[], Replay] | None = None
    draw: Callable[[], Curve] = lambda: EMPTY
    compose: Callable[[Phase], dict[str, int]] = lambda _: {}

    @cached_property
    def reserved(self) -> int:
        """What the caching allocator has taken from the device; 0 where it is not replayed."""
        return self.replay()

    @cached_property
    def curve(self) -> Curve:
        """Samples of the live bytes over the whole step."""
        return self.draw()


def timeline(
    recording: Recording,
    base: Mapping[str, int],
    step_temporaries: int,
    replay: Callable[[], int] = int,
    told: Callable[[], Replay] | None = None,
) -> Timeline:
    """The bytes of a step over `base`; `step_temporaries` is the most an optimizer step needs beside what persists.

    `replay` gives the bytes that the caching allocator takes, should they be asked for; they are replayed from what is `told`.
    """
    walk = WALKS.get(recording, recording, lambda: Walk(recording))
    ground, others = sum(base.values()) + recording.resident, walk.others
    phases: dict[Phase, int] = {
        "forward": ground + walk.tops["forward"][1] + others,
        "backward": ground + max(walk.tops["backward"][1], walk.after_forward) + others,
        "optimizer": ground + walk.after_backward + step_temporaries,
    }
    phase = max(phases, key=lambda name: phases[name])
    between, _, highest = walk.buffers
    compose = partial(_composed, walk, base, step_temporaries)
    return Timeline(
        base, phases, phases[phase], phase, compose(phase),
        recording.resident + recording.views + walk.after_forward - between + others, ground + walk.after_forward + others,
        ground + walk.after_backward,
        walk.gradients + base.get("gradients", 0), step_temporaries, highest + base.get("buffers", 0),
        recording.unmodelled, recording.pinned, others, recording.aside, recording.resident,
        (lambda: replay() + others) if others else replay, None if others else told,
        partial(_curve, recording.overlay, walk.signed, walk.slices, ground + others, phases["optimizer"]), compose,
    )  # fmt: skip


def _composed(walk: Walk, base: Mapping[str, int], temporary: int, phase: Phase) -> dict[str, int]:
    """What a phase's maximum is made of, `base` included."""
    if phase == "optimizer":
        left = {"gradients": walk.gradients, "buffers": walk.buffers[1], "temporary": temporary}
        parts = {"activations": walk.recording.kept, **left}
    else:
        parts = walk.composition(phase)
        parts["activations"] += walk.others
    parts["gradients"] += base.get("gradients", 0)
    parts["buffers"] += base.get("buffers", 0)
    parts["activations"] += walk.recording.resident
    return {**base, **parts}


class Walk:
    """What follows from a recording alone, whatever persists beside it.

    `tops` are each phase's highest slice and bytes; `buffers` a strategy's after the forward pass, after the backward
    pass and at their highest; `gradients` what the step leaves of them; `others` what other micro batches keep.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.moved: Moved = {}
        self.signed, self.slices = signed_sizes(recording, self.moved), schedule(recording)
        self.heights = Heights(self.signed)
        levels = _levels(self.heights, self.slices, recording.overlay)
        forwards, tops = [piece.phase for piece in self.slices].count("forward"), [top for top, _ in levels]
        self.tops = {"forward": _highest(tops, 0, forwards), "backward": _highest(tops, forwards, len(tops))}
        self.after_forward, self.after_backward = levels[forwards - 1][1], levels[-1][1]
        self.buffers = _buffers(recording, self.signed, self.slices, forwards)
        self.gradients = self.after_backward - recording.kept - self.buffers[1]
        self.others = _others(recording, levels[:forwards], self.buffers[0])
        self._compositions: dict[Phase, dict[str, int]] = {}

    def composition(self, phase: Phase) -> dict[str, int]:
        """What is live at a phase's highest point, by part."""
        if phase not in self._compositions:
            top = self.tops[phase][0]
            self._compositions[phase] = _composition(self.recording, self.heights, self.moved, self.slices, top)
        return dict(self._compositions[phase])


WALKS: Known[Walk] = Known()


def _others(recording: Recording, levels: list[tuple[int, int]], shared: int) -> int:
    """What other micro batches in flight keep for their backward passes: as much as this one does when its forward ends.

    `shared` is what a strategy has then: gathered parameters and gradients, which all micro batches have in common. In
    chunks of a virtual pipeline stage only the layers count.
    """
    times, chunks = recording.in_flight
    if times <= chunks:
        return 0
    kept = levels[-2][1] - levels[0][1] if chunks > 1 else levels[-1][1] + recording.resident - recording.once
    return max(0, kept - shared) * (times - chunks) // chunks


def _levels(heights: Heights, slices: list[Slice], overlay: Overlay) -> list[tuple[int, int]]:
    """For each slice in order: (the highest it gets, where it ends), above the base."""
    plain = _measured(heights.signed, slices)
    known = dict[tuple[Slice, int], tuple[int, int]]()
    live, levels = 0, []
    for number, piece in enumerate(slices):
        laid = overlay.get(number)
        if laid:
            key = piece, id(laid)
            if key not in known:
                known[key] = heights.over(piece, laid)
            top, total = known[key]
        else:
            top, total = plain[piece]
        levels.append((live + top, live + total))
        live += total
    return levels


def _curve(overlay: Overlay, signed: list[int], slices: list[Slice], ground: int, step: int) -> Curve:
    """The curve, with what is laid over the log put into it."""
    if not overlay:
        return curve(signed, slices, ground, step)
    longer, cut = list(signed), list(slices)
    known: dict[tuple[Slice, int], Slice] = {}
    for number, laid in overlay.items():
        alike = slices[number], id(laid)
        if alike not in known:
            start = len(longer)
            longer += spread(signed, slices[number], laid)
            known[alike] = Slice(start, len(longer), slices[number].phase)
        cut[number] = known[alike]
    return curve(longer, cut, ground, step)


def _buffers(recording: Recording, signed: list[int], slices: list[Slice], forwards: int) -> tuple[int, int, int]:
    """Bytes of a sharding strategy's buffers: after the first `forwards` slices, after all, and at their highest.

    Gradients that earlier micro batches left are counted with the first.
    """
    there = _levels(_of(recording, signed, recording.left), slices, {})[forwards - 1][1] if recording.left else 0
    if not recording.buffers and not recording.overlay:
        return there, 0, 0
    laid, among = part_of(recording.overlay, "buffers"), recording.buffers
    levels = _levels(_of(recording, signed, among), slices, laid) if among else alone(laid, len(slices))
    return levels[forwards - 1][1] + there, levels[-1][1], max(level[0] for level in levels)


def _of(recording: Recording, signed: list[int], marked: Iterable[int]) -> Heights:
    """What each event adds or takes away of these storages alone."""
    told = {*marked, *(~storage for storage in marked)}
    return Heights([nbytes if event in told else 0 for event, nbytes in zip(recording.events, signed, strict=False)])


def _highest(tops: list[int], start: int, stop: int) -> tuple[int, int]:
    """(number of the slice, bytes) where a phase is at its highest."""
    highest = max(tops[start:stop])
    return tops.index(highest, start, stop), highest


def _measured(signed: list[int], slices: list[Slice]) -> dict[Slice, tuple[int, int]]:
    """For each distinct slice: (how high it rises above where it begins, how far it ends above it)."""
    found = {}
    for piece in set(slices):
        path = list(accumulate(signed[piece.start : piece.stop]))
        found[piece] = (max(0, *path), path[-1]) if path else (0, 0)
    return found


def _composition(
    recording: Recording, heights: Heights, moved: Moved, slices: list[Slice], peak: int
) -> dict[str, int]:
    """What is live at the highest event of slice number `peak`, by part; all of it since the step began."""
    kinds, signed = fates(recording), heights.signed
    total = dict.fromkeys(PARTS, 0)
    for piece, times in Counter(slices[:peak]).items():
        for part, nbytes in _parts(recording, signed, moved, kinds, piece.start, piece.stop).items():
            total[part] += times * nbytes
    above = {number: laid for number, laid in recording.overlay.items() if number < peak}
    alike = {id(laid): laid for laid in above.values()}
    for key, times in Counter(map(id, above.values())).items():
        for part, nbytes in parts_laid(alike[key]).items():
            total[part] += times * nbytes
    last, laid = slices[peak], recording.overlay.get(peak, ())
    if laid:
        stop, items = heights.peak(last, laid)
    else:
        path = list(accumulate(signed[last.start : last.stop]))
        stop, items = last.start + path.index(max(path)) + 1, 0
    there = _parts(recording, signed, moved, kinds, last.start, stop)
    for part, nbytes in (*there.items(), *parts_laid(laid[:items]).items()):
        total[part] += nbytes
    return {str(part): nbytes for part, nbytes in total.items()}


def fates(recording: Recording) -> list[Part]:
    """What each storage of the log is, in the end."""
    made = len(recording.sizes)
    kinds: list[Part] = ["activations"] * recording.forward_storages
    kinds += ["temporary"] * (made - recording.forward_storages)
    for first, last in recording.recomputed:
        kinds[first:last] = ["activations"] * (last - first)
    for storage in recording.gradients:
        kinds[storage] = "gradients"
    for storage in recording.buffers:
        kinds[storage] = "buffers"
    return kinds


def _parts(
    recording: Recording, signed: list[int], moved: Moved, kinds: list[Part], start: int, stop: int
) -> dict[Part, int]:
    found = dict.fromkeys(PARTS, 0)
    for at, others in moved.items():
        if start <= at < stop:
            event = recording.events[at]
            for storage, nbytes in others:
                found[kinds[storage]] += nbytes
                found[kinds[event if event >= 0 else ~event]] -= nbytes
    for event, nbytes in zip(recording.events[start:stop], signed[start:stop], strict=True):
        found[kinds[event if event >= 0 else ~event]] += nbytes
    return found
