"""One step of a model and its companions, put together from the steps that each would take alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from memcalc.replay.company import Companion, replayed
from memcalc.tape.laid import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memcalc.timeline import Timeline
    from memcalc.timeline.curve import Curve
    from memcalc.timeline.slices import Phase


class Accompanying(NamedTuple):
    """A companion's own step: whether it has a backward pass, whose weights it has, when it runs."""

    step: Timeline
    learns: bool = False
    shared: bool = False
    after: bool = False

    @property
    def ground(self) -> int:
        """What of it is there all along."""
        return sum(self.step.base.values()) + self.step.resident

    @property
    def base(self) -> Mapping[str, int]:
        """The same by component, where it has weights of its own."""
        return {} if self.shared else {**self.step.base, "activations": self.step.resident}

    @property
    def stays(self) -> int:
        """What it leaves for the loss, or for its own backward pass."""
        return self.step.activations - self.step.resident


def together(main: Timeline, others: Sequence[Accompanying]) -> Timeline:
    """One step of all: most companions run forward in turn, then the model, then what reads it; backward in reverse."""
    base = _sum(main.base, *(other.base for other in others))
    stays = sum(other.stays for other in others)
    moments = [
        *_before(base, others),
        *_with(main, base, others),
        *_over(main, base, others),
        *_after(main, base, others),
    ]
    highest = _highest(moments)
    phases = {phase: moment.height for phase, moment in highest.items()}
    phase = max(phases, key=lambda name: phases[name])
    compose = partial(_composed, base, highest)
    more = sum(base.values()) + stays - sum(main.base.values())
    lifted = phases["optimizer"] - main.phases["optimizer"]
    return replace(
        main, base=base, phases=phases, peak=phases[phase], peak_phase=phase, at_peak=compose(phase),
        activations=main.activations + stays + base.get("activations", 0), after_forward=main.after_forward + more,
        after_backward=phases["optimizer"] - main.step_temporaries - _stepping(others),
        gradients=main.gradients + sum(other.step.gradients for other in others),
        step_temporaries=main.step_temporaries + _stepping(others),
        buffers=max(main.buffers, *(other.step.buffers for other in others)),
        unmodelled=tuple(dict.fromkeys((*main.unmodelled, *(kind for o in others for kind in o.step.unmodelled)))),
        pinned=main.pinned + sum(other.step.pinned for other in others),
        replay=lambda: _reserved(main, others, partial(_raised_by, main, more, phases[phase])),
        draw=lambda: _raised(main.curve, more, lifted), compose=compose,
    )  # fmt: skip


def _highest(moments: Iterable[Moment]) -> dict[Phase, Moment]:
    """The first of the highest moments of each phase."""
    found: dict[Phase, Moment] = {}
    for moment in moments:
        if moment.phase not in found or moment.height > found[moment.phase].height:
            found[moment.phase] = moment
    return found


def _composed(base: Mapping[str, int], highest: Mapping[Phase, Moment], phase: Phase) -> dict[str, int]:
    """What a phase's maximum is made of; what none of the parts accounts for is temporary."""
    moment = highest[phase]
    parts = _sum(base, dict.fromkeys(PARTS, 0), moment.parts())
    return {**parts, "temporary": parts["temporary"] + moment.height - sum(parts.values())}


def _raised_by(main: Timeline, more: int, peak: int) -> int:
    """What the model alone reserves, with what the others hold and what the peak lies higher."""
    return max(main.reserved + more, peak + main.reserved - main.peak)


def _reserved(main: Timeline, others: Sequence[Accompanying], most: Callable[[], int]) -> int:
    """What the allocator takes for all, replayed together; `most` where one of them is not replayed."""
    found = [(other.step.told, other) for other in others]
    told = [Companion(tell(), other.learns, other.shared, other.after) for tell, other in found if tell]
    if main.told is None or len(told) < len(found) or any(companion.replay.staged for companion in told):
        return most()
    return replayed(main.told(), told)


class Moment(NamedTuple):
    """The highest of a stretch of the step, and what is known of what it is made of, beyond what is there all along."""

    phase: Phase
    height: int
    parts: Callable[[], Mapping[str, int]]


def _before(base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """The companions' forward passes, each over what the ones before it have left."""
    left, ground = 0, sum(base.values())
    for other in others:
        if not other.after:
            parts = {"activations": left}
            yield Moment("forward", ground + left + other.step.phases["forward"] - other.ground, partial(dict, parts))
            left += other.stays


def _with(main: Timeline, base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """The model's own phases, over what its companions have left, which is gone when the optimizer steps."""
    ground, own = sum(base.values()), sum(main.base.values())
    before = sum(other.stays for other in others if not other.after)
    stays: dict[Phase, int] = {"forward": before, "backward": sum(other.stays for other in others)}
    for phase, left in stays.items():
        yield Moment(phase, ground - own + left + main.phases[phase], partial(_own, main, phase, left))


def _over(main: Timeline, base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """What runs over the model's forward pass, each over what the ones before it have left."""
    ground, made = sum(base.values()), main.after_forward - sum(main.base.values()) + main.aside
    left = made + sum(other.stays for other in others if not other.after)
    for other in others:
        if other.after:
            parts = {"activations": left}
            yield Moment("forward", ground + left + other.step.phases["forward"] - other.ground, partial(dict, parts))
            left += other.stays


def _after(main: Timeline, base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """The backward passes of those that learn, the last first, beside the gradients made so far; the optimizer step."""
    ground = sum(base.values())
    stays = sum(other.stays for other in others)
    left = main.after_backward - sum(main.base.values())
    gradients = main.gradients - main.base.get("gradients", 0)
    for other in reversed(others):
        if other.learns:
            stays -= other.stays
            parts = {"activations": stays + other.stays, "gradients": gradients}
            yield Moment(
                "backward", ground + stays + left + other.step.phases["backward"] - other.ground, partial(dict, parts)
            )
            left += other.step.after_backward - other.ground
            gradients += other.step.gradients - other.step.base.get("gradients", 0)
    parts = {"gradients": gradients, "activations": left - gradients}
    yield Moment("optimizer", ground + left + main.step_temporaries + _stepping(others), partial(dict, parts))


def _own(main: Timeline, phase: Phase, stays: int) -> dict[str, int]:
    """What the model's phase is made of at its highest, beyond its base."""
    parts = main.compose(phase)
    return {**{name: nbytes - main.base.get(name, 0) for name, nbytes in parts.items()},
            "activations": parts["activations"] - main.base.get("activations", 0) + stays}  # fmt: skip


def _stepping(others: Sequence[Accompanying]) -> int:
    return sum(other.step.step_temporaries for other in others if other.learns)


def _sum(*parts: Mapping[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, nbytes in part.items():
            total[name] = total.get(name, 0) + nbytes
    return total


def _raised(curve: Curve, more: int, stepping: int) -> Curve:
    """A curve with more bytes under it, of which some are gone in the optimizer step."""
    forward, backward, step = curve.phases()
    samples = (*(n + more for n in (*forward, *backward)), *(n + stepping for n in step))
    return replace(curve, samples=samples)
