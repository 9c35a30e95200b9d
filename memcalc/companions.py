"""Companions: further models held beside the one that is trained, and what they add to its step.

A companion is planned like a run of its own: with the run's batch, sharding and precision. A frozen one runs without a
graph before the model does (trl, trainer/dpo_trainer.py, ppo_trainer.py, grpo_trainer.py: the reference's and the
rewards' forward passes under torch.no_grad); a trainable one runs with the model, in the same backward pass (trl,
ppo_trainer.py, PolicyAndValueWrapper).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from memcalc.errors import fault
from memcalc.models import load_model
from memcalc.plan import Beside
from memcalc.precision import recipe
from memcalc.roles import adapted_tensors, cast, kept_in, packed
from memcalc.run import Checkpointing, Loss
from memcalc.sharding import placement
from memcalc.sharding.strategy import PERSISTENT
from memcalc.simulation import setting_of, simulate
from memcalc.tape import measure
from memcalc.tape.inference import record_forward, record_nothing
from memcalc.timeline import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memcalc.curve import Curve
    from memcalc.plan import Plan
    from memcalc.precision import Recipe
    from memcalc.run import Companion, Run
    from memcalc.sharding.strategy import Strategy
    from memcalc.slices import Phase
    from memcalc.timeline import Timeline

STAYS = {
    "reference": "one log-probability of each token stays",
    "reward": "its score stays",
    "value": "its scores stay",
    "teacher": "its logits stay until the loss is taken back",
    "ema": "its output stays",
    "encoder": "what it makes of its input stays",
}


def company(plan: Plan, beside: Path | None) -> tuple[Beside, ...]:
    """Every companion of a run, looked up; what is assumed of each is noted."""
    found = []
    for index, companion in enumerate(plan.run.companions):
        where = f"companions.{index}"
        found.append(Beside(companion, _planned(plan, companion, beside, where)))
        _note(plan, found[-1], where)
    return tuple(found)


def _planned(plan: Plan, companion: Companion, beside: Path | None, where: str) -> Plan:
    same, divided = companion.model == "same", plan.ways is not None
    if divided and not same:
        raise fault(
            "companions", "where ranks hold parts of the model, only the model again is modelled beside it: model: same"
        )
    model = plan.model if same else load_model(companion.model, beside)
    if not divided:
        model = cast(model, companion, plan.run)
    run = _apart(plan.run, companion, same=same)
    place = placement(run, model)
    chosen = _recipe(plan.run, companion, place)
    adapted = adapted_tensors(model, companion.lora, chosen.frozen, where) if companion.lora else None
    own = adapted.tensors if adapted else model.tensors
    tensors = tuple(replace(t, trainable=t.trainable and companion.trainable) for t in own)
    if companion.quantize:
        tensors = packed(companion, model, tensors, chosen.frozen, where)
    length = min(plan.seq_len, model.context or plan.seq_len) if companion.role == "encoder" else plan.seq_len
    return replace(
        plan, run=run, model=model, recipe=chosen, tensors=tensors, placement=place, adapted=adapted, companions=(),
        seq_len=length,
    )  # fmt: skip


def _apart(run: Run, companion: Companion, *, same: bool) -> Run:
    """A run of the companion alone; what the run says of its own model's parts is not said of this one's."""
    own = replace(
        run, lora=companion.lora, quantize=companion.quantize, train=(), freeze=(), companions=(), keep_outputs=False,
        loss=Loss(), implementation=run.implementation if same else "hf",
    )  # fmt: skip
    return own if companion.trainable else replace(own, checkpointing=Checkpointing(), grad_accum=1)


def _recipe(run: Run, companion: Companion, place: Strategy) -> Recipe:
    """The run's precision, in the companion's own dtype where it names one."""
    chosen = recipe(run.precision)
    if companion.lora or companion.trainable:
        chosen = place.recipe_of(chosen)
    if companion.lora:
        return replace(chosen, frozen=companion.dtype or chosen.frozen)
    dtype = companion.dtype or (chosen.frozen if run.lora and not companion.trainable else chosen.weights)
    return replace(chosen, weights=dtype, frozen=dtype, master=chosen.master if companion.trainable else "")


def _note(plan: Plan, beside: Beside, where: str) -> None:
    companion, own = beside
    runs = runs_forward(companion)
    name = "the model again" if companion.model == "same" else own.model.name
    how = f"{companion.role}: {name}, in {kept_in(own)}"
    if companion.trainable:
        by = " by its adapters" if own.adapted else ""
        how += f"; it learns{by}, and runs in the same step: what autograd keeps of both is there at once"
    elif runs:
        how += f"; frozen, run without a graph before the model: {STAYS[companion.role]}"
    else:
        how += "; held, and not run in the step"
    shared = own.placement.over("weights") > 1
    spread = f"; its weights are shared out like the model's, over {own.placement.over('weights')}" if shared else ""
    plan.notes.assume(where, "companion", how + spread)
    if own.adapted:
        plan.notes.assume_all(f"{where}.lora", own.adapted.notes)
        plan.notes.warn_all(f"{where}.lora", own.adapted.warnings)


def runs_forward(companion: Companion) -> bool:
    """Whether it runs in the step: a moving average does not, unless it is said to."""
    return companion.trainable or (companion.role != "ema" if companion.forward is None else companion.forward)


def held(plan: Plan) -> dict[str, int]:
    """Bytes of each persistent component of all companions, on the fullest rank's GPU."""
    total = dict.fromkeys(PERSISTENT, 0)
    for _, own in plan.companions:
        local = own.local(own.ledger())
        for name in PERSISTENT:
            total[name] += 0 if name in own.placement.offloaded else local.total(name)
    return total


def pinned(plan: Plan) -> int:
    """Host memory of what of them is offloaded."""
    return sum(own.placement.hosted(own.local(own.ledger())).pinned for _, own in plan.companions)


def accompanied(plan: Plan, step: Timeline | None) -> Timeline | None:
    """The model's step with its companions'; None where it can't be followed."""
    if step is None:
        return None
    return together(step, [_timeline(plan, *beside) for beside in plan.companions])


def _timeline(plan: Plan, companion: Companion, own: Plan) -> Accompanying:
    if companion.trainable:
        found = simulate(own)
    elif runs_forward(companion):
        found = simulate(own, partial(record_forward, whole=companion.role == "teacher"), evaluating=True)
    else:
        return Accompanying(_only_held(own))
    if found is None:
        plan.notes.warn("companions", "activations-not-included",
                        f"what the {companion.role} model needs while it runs is not included")  # fmt: skip
        return Accompanying(_only_held(own))
    return Accompanying(found, companion.trainable)


def _only_held(own: Plan) -> Timeline:
    return measure(own.model, own.tensors, own.optimizer, setting_of(own), own.placement, record_nothing)


class Accompanying(NamedTuple):
    """A companion's own step, and whether it has a backward pass."""

    step: Timeline
    learns: bool = False

    @property
    def ground(self) -> int:
        """What of it is there all along."""
        return sum(self.step.base.values())


def together(main: Timeline, others: Sequence[Accompanying]) -> Timeline:
    """One step of all: the companions run forward in turn, then the model; backward in reverse."""
    base = _sum(main.base, *(other.step.base for other in others))
    stays = sum(other.step.activations for other in others)
    moments = [*_before(base, others), *_with(main, base, stays), *_after(main, base, others)]
    phases: dict[Phase, int] = {}
    for moment in moments:
        phases[moment.phase] = max(phases.get(moment.phase, 0), moment.height)
    phase = max(phases, key=lambda name: phases[name])

    def compose(phase: Phase) -> dict[str, int]:
        highest = max((moment for moment in moments if moment.phase == phase), key=lambda moment: moment.height)
        parts = _sum(base, dict.fromkeys(PARTS, 0), highest.parts())
        return {**parts, "temporary": parts["temporary"] + highest.height - sum(parts.values())}

    more = sum(base.values()) + stays - sum(main.base.values())
    lifted = phases["optimizer"] - main.phases["optimizer"]
    return replace(
        main, base=base, phases=phases, peak=phases[phase], peak_phase=phase, at_peak=compose(phase),
        activations=main.activations + stays, after_forward=main.after_forward + more,
        after_backward=phases["optimizer"] - main.step_temporaries - _stepping(others),
        gradients=main.gradients + sum(other.step.gradients for other in others),
        step_temporaries=main.step_temporaries + _stepping(others),
        buffers=max(main.buffers, *(other.step.buffers for other in others)),
        unmodelled=tuple(dict.fromkeys((*main.unmodelled, *(kind for o in others for kind in o.step.unmodelled)))),
        pinned=main.pinned + sum(other.step.pinned for other in others),
        replay=lambda: max(main.reserved + more, phases[phase] + main.reserved - main.peak),
        draw=lambda: _raised(main.curve, more, lifted), compose=compose,
    )  # fmt: skip


class Moment(NamedTuple):
    """The highest of a stretch of the step, and what is known of what it is made of, beyond what is there all along."""

    phase: Phase
    height: int
    parts: Callable[[], Mapping[str, int]]


def _before(base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """The companions' forward passes, each over what the ones before it have left."""
    left, ground = 0, sum(base.values())
    for other in others:
        parts = {"activations": left}
        yield Moment("forward", ground + left + other.step.phases["forward"] - other.ground, partial(dict, parts))
        left += other.step.activations


def _with(main: Timeline, base: Mapping[str, int], stays: int) -> Iterator[Moment]:
    """The model's own phases, over what its companions have left, which is gone when the optimizer steps."""
    ground, own = sum(base.values()), sum(main.base.values())
    for phase in ("forward", "backward"):
        yield Moment(phase, ground - own + stays + main.phases[phase], partial(_own, main, phase, stays))


def _after(main: Timeline, base: Mapping[str, int], others: Sequence[Accompanying]) -> Iterator[Moment]:
    """The backward passes of those that learn, the last first, beside the gradients made so far; the optimizer step."""
    ground = sum(base.values())
    stays = sum(other.step.activations for other in others)
    left = main.after_backward - sum(main.base.values())
    gradients = main.gradients - main.base.get("gradients", 0)
    for other in reversed(others):
        if other.learns:
            stays -= other.step.activations
            parts = {"activations": stays + other.step.activations, "gradients": gradients}
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
