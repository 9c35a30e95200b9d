"""Companions: further models held beside the one that is trained, and what they add to its step.

A companion is planned like a run of its own: with the run's batch, sharding and precision. A frozen one runs without a
graph: a reference or a teacher over what the model's forward pass has left (trl 1.16, trainer/dpo_trainer.py,
kto_trainer.py, experimental/gkd/gkd_trainer.py), another before it (grpo_trainer.py, ppo_trainer.py: what the rewards and
their reference say is known when the step begins). A trainable one runs with the model, in the same backward pass
(ppo_trainer.py, PolicyAndValueWrapper).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from memcalc.companions.beside import Accompanying, together
from memcalc.companions.roles import adapted_tensors, cast, kept_in, packed
from memcalc.errors import fault
from memcalc.models import load_model
from memcalc.plan import Beside
from memcalc.precision import recipe
from memcalc.run import Checkpointing, Loss
from memcalc.sharding import placement
from memcalc.sharding.strategy import PERSISTENT
from memcalc.simulation import setting_of, simulate
from memcalc.simulation.measuring import measure
from memcalc.tape.inference import record_forward, record_nothing

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.plan import Plan
    from memcalc.precision import Recipe
    from memcalc.run import Companion, Run
    from memcalc.sharding.strategy import Strategy
    from memcalc.timeline import Timeline

STAYS = {
    "reference": "one log-probability of each token stays",
    "reward": "its score stays",
    "value": "its scores stay",
    "teacher": "its logits stay until the loss is taken back",
    "ema": "its output stays",
    "encoder": "what it makes of its input stays",
}
FOLLOWING = ("reference", "teacher")  # roles that read what the trained model reads, after it


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
    _check_shared(companion, plan.run, where)
    companion = replace(companion, quantize=plan.run.quantize) if companion.shared else companion
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


def _check_shared(companion: Companion, run: Run, where: str) -> None:
    """RunInvalid where one that has no weights of its own is none that the model can be with its adapters switched off."""
    if not companion.shared:
        return
    reads = companion.role in FOLLOWING and runs_forward(companion) and not companion.trainable
    if companion.model != "same" or not reads or not run.lora:
        raise fault(f"{where}.shared", "a companion without weights of its own is the model with its adapters switched off: "
                                       "a reference or a teacher that runs, model: same, in a run with lora")  # fmt: skip
    for key in ("dtype", "quantize"):
        if getattr(companion, key) is not None:
            raise fault(
                f"{where}.{key}", "a shared companion has the model's own weights, kept as those are: leave it out"
            )


def _apart(run: Run, companion: Companion, *, same: bool) -> Run:
    """A run of the companion alone; what the run says of its own model's parts is not said of this one's."""
    own = replace(
        run, lora=companion.lora, quantize=companion.quantize, train=(), freeze=(), companions=(), keep_outputs=False,
        loss=run.loss if companion.role in FOLLOWING else Loss(), implementation=run.implementation if same else "hf",
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
        where_to = "over what the model keeps for its backward pass" if runs_after(companion) else "before the model"
        own_weights = ", with the model's own weights, adapters switched off" if companion.shared else ""
        how += f"; frozen, run without a graph {where_to}{own_weights}: {STAYS[companion.role]}"
    else:
        how += "; held, and not run in the step"
    shared = own.placement.over("weights") > 1
    spread = f"; its weights are shared out like the model's, over {own.placement.over('weights')}" if shared else ""
    plan.notes.assume(where, "companion", how + spread)
    if companion.after is not None and (companion.trainable or not runs):
        plan.notes.warn(f"{where}.after", "no-effect", "changes nothing: it says when one that does not learn runs, and this one "
                        + ("learns" if companion.trainable else "does not run"))  # fmt: skip
    if own.adapted:
        plan.notes.assume_all(f"{where}.lora", own.adapted.notes)
        plan.notes.warn_all(f"{where}.lora", own.adapted.warnings)


def runs_forward(companion: Companion) -> bool:
    """Whether it runs in the step: a moving average does not, unless it is said to."""
    return companion.trainable or (companion.role != "ema" if companion.forward is None else companion.forward)


def runs_after(companion: Companion) -> bool:
    """Whether what runs without a graph does so when the model's forward pass is over."""
    if companion.trainable:
        return False
    return companion.role in FOLLOWING if companion.after is None else companion.after


def held(plan: Plan) -> dict[str, int]:
    """Bytes of each persistent component of all companions, on the fullest rank's GPU."""
    total = dict.fromkeys(PERSISTENT, 0)
    for companion, own in plan.companions:
        if companion.shared:
            continue
        local = own.local(own.ledger())
        for name in PERSISTENT:
            total[name] += 0 if name in own.placement.offloaded else local.total(name)
    return total


def pinned(plan: Plan) -> int:
    """Host memory of what of them is offloaded."""
    own = [beside.plan for beside in plan.companions if not beside.companion.shared]
    return sum(one.placement.hosted(one.local(one.ledger())).pinned for one in own)


def accompanied(plan: Plan, step: Timeline | None) -> Timeline | None:
    """The model's step with its companions'; None where it can't be followed."""
    if step is None:
        return None
    return together(step, [_timeline(plan, *beside) for beside in plan.companions])


def _timeline(plan: Plan, companion: Companion, own: Plan) -> Accompanying:
    if companion.trainable:
        found = simulate(own)
    elif runs_forward(companion):
        teaches = companion.role == "teacher"
        taken = teaches and plan.run.loss.kind == "distillation"  # the loss has its logits
        found = simulate(own, partial(record_forward, whole=teaches, taken=taken), evaluating=True)
    else:
        return Accompanying(_only_held(own))
    if found is None:
        plan.notes.warn("companions", "activations-not-included",
                        f"what the {companion.role} model needs while it runs is not included")  # fmt: skip
        return Accompanying(_only_held(own))
    return Accompanying(found, companion.trainable, companion.shared, runs_after(companion))


def _only_held(own: Plan) -> Timeline:
    return measure(own.model, own.tensors, own.optimizer, setting_of(own), own.placement, record_nothing)
