"""Evaluate candidates fast: a step is recorded once for all runs that share it, the rest is sums.

What a step makes and keeps depends on the model, the dtypes, checkpoints, attention, loss and micro batch; not on the
optimizer, the GPU or how states are shared out. So one record on a single GPU, at micro batches of one and two, gives every
larger micro batch (sizes grow in proportion; a maximum of straight lines is convex, so the line through two of its points
stays below it) and a lower bound under any sharding: what is gathered or communicated only adds to it. A run that passes the
bound is looked at exactly, and what is recommended is estimated in full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.errors import RunInvalid
from memcalc.explanation.kinds import Kinds
from memcalc.gpus import communicator_bytes
from memcalc.model import OF_IMAGES
from memcalc.recommender.heights import Family, Ground, Grounds, Heights, Standing, Steps
from memcalc.recommender.legality import degrees, divided, fewest, named
from memcalc.recommender.loads import load
from memcalc.recommender.work import Work, by_kind, work
from memcalc.resolve import resolve
from memcalc.run import Checkpointing, Loss
from memcalc.simulation import RUNNABLE, setting_of, simulate
from memcalc.simulation.measuring import standing, step_temporaries
from memcalc.tape.step import Recording, record_step

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.gpus import Gpu
    from memcalc.optimizers import Optimizer
    from memcalc.plan import Plan
    from memcalc.recommender.throughput import Load
    from memcalc.run import Run, Spec
    from memcalc.sharding.strategy import Local
    from memcalc.tape.setting import Setting
    from memcalc.timeline import Timeline


SAMPLED = OF_IMAGES | {"diffusion", "speech", "classifier"}  # kinds of models whose pace is in samples
LARGE = (4096, 4096)  # a parameter whose states are paged if any are


class Evaluator:
    """The caches of one search: plans, records and sums, each made when it is first asked for.

    Shapes are made of the same few values, so their parts are told apart by identity.
    """

    def __init__(self, beside: Path | None = None) -> None:
        self.beside = beside
        self.recorded = 0
        self.alive: list[object] = []  # what caches tell apart by identity must not go
        self._plans: dict[str, Plan | None] = {}
        self._heights: dict[Any, Heights | None] = {}
        self._families: dict[Any, Family | None] = {}
        self._standings: dict[Any, Standing | None] = {}
        self._locals: dict[str, Local] = {}

    def plan(self, shape: Run) -> Plan | None:
        """The plan of a shape; None where something in it does not go together."""
        key = repr(shape)
        if key not in self._plans:
            try:
                self._plans[key] = resolve(shape, self.beside)
            except RunInvalid:
                self._plans[key] = None
        return self._plans[key]

    def family(self, shape: Run, spec: Spec) -> Family | None:
        """The step of a shape on as few GPUs as it takes, which share nothing; None where it can't be run."""
        frees = named(spec).frees_gradients
        key = (id(shape.precision), id(shape.checkpointing), id(shape.implementation), id(shape.attention), id(shape.loss),
               id(shape.parallel), id(shape.lora), id(shape.quantize), shape.offload == "activations",
               repr(spec) if frees else "", flying(shape))  # fmt: skip
        if key not in self._families:
            self._families[key] = self._family(shape, spec)
        return self._families[key]

    def _family(self, shape: Run, spec: Spec) -> Family | None:
        megatron = shape.implementation == "megatron"
        few = fewest(shape) if megatron else degrees(shape)
        single = replace(shape, gpus=few, sharding=shape.sharding if megatron else None, offload=_kept_on_gpu(shape.offload),
                         grad_accum=flying(shape))  # fmt: skip
        first, second = (self.heights(replace(single, batch_size=batch), spec) for batch in (1, 2))
        return Family(first, second) if first and second else None

    def heights(self, run: Run, spec: Spec) -> Steps | None:
        """The step of a run, recorded as it is; of a model that can't be run, what persists alone. None: it is refused."""
        plan = self.plan(run)
        if plan is None:
            return None
        return tuple(self._step(replace(rank, optimizer=named(spec)), spec) for rank in plan.ranks or (plan,))

    def _step(self, plan: Plan, spec: Spec) -> Heights:
        run = plan.run
        key = (_seen(setting_of(plan)), plan.placement, plan.label, plan.ways and repr(plan.ways),
               repr((run.model, run.lora, run.quantize, run.parallel, run.implementation, run.train, run.freeze)),
               repr(spec) if plan.optimizer.frees_gradients else "")  # fmt: skip
        if key not in self._heights:
            self._heights[key] = self._record(plan)
        return self._heights[key] or _unseen(plan)

    def _record(self, plan: Plan) -> Heights | None:
        self.recorded += 1
        step, recording = recorded(plan)
        return _heights(step, recording) if step and recording else None

    def flops(self, run: Run, spec: Spec) -> dict[str, int]:
        """FLOPs of a micro step on the busiest rank, by the kind of block."""
        plan = self.plan(run)
        found: list[dict[str, int]] = []
        for rank in (plan.ranks or (plan,)) if plan else ():
            _, recording = recorded(replace(rank, optimizer=named(spec)))
            found += [by_kind(recording, Kinds(rank.model))] if recording else []
        return max(found, key=lambda kinds: sum(kinds.values()), default={})

    def standing(self, shape: Run, spec: Spec, *, accumulating: bool) -> Standing | None:
        """What is there all along in a shape with an optimizer; None where the shape is refused."""
        key = (id(shape.precision), id(shape.sharding), id(shape.parallel), id(shape.lora), id(shape.quantize),
               id(shape.implementation), shape.offload, shape.gpus, accumulating, repr(spec))  # fmt: skip
        if key not in self._standings:
            counted = shape if accumulating == (shape.grad_accum > 1) else replace(shape, grad_accum=1 + accumulating)
            self._standings[key] = self._standing(counted, spec)
        return self._standings[key]

    def _standing(self, shape: Run, spec: Spec) -> Standing | None:
        plain = replace(shape, checkpointing=Checkpointing(), attention="sdpa", loss=Loss())
        plan = self.plan(plain)
        if plan is None:
            return None
        grounds = self.grounds(plan, spec)
        return Standing(grounds, self.load(plan, spec, 1, 0), plan.placement.over("gradients"), tokens(plan))

    def load(self, plan: Plan, spec: Spec, grad_accum: int, staged: int) -> Load:
        """What the throughput model asks of the fullest rank of a plan."""
        parts = zip(plan.ranks or (plan,), self.grounds(plan, spec), strict=True)
        rank, ground = max(parts, key=lambda part: part[1].base)
        return load(rank, ground, grad_accum, named(spec).implementation, staged)

    def grounds(self, plan: Plan, spec: Spec) -> Grounds:
        """What is there all along on each kind of rank of a plan, with an optimizer."""
        return tuple(self._ground(rank, spec) for rank in plan.ranks or (plan,))

    def _ground(self, plan: Plan, spec: Spec) -> Ground:
        run = plan.run
        key = repr((run.precision, run.lora, run.quantize, run.sharding, run.gpus, run.parallel, run.offload, run.train, run.freeze,
                    run.implementation, plan.label))  # fmt: skip
        if key not in self._locals:
            self._locals[key] = plan.placement.place(tuple(tensor for tensor in plan.tensors if not tensor.tied_to))
        return _ground(plan, self._locals[key], named(spec))


def flying(shape: Run) -> int:
    """As many micro batches as tell apart what a pipeline holds of them: one for each stage, if there are so many."""
    return min(shape.grad_accum, max(2, shape.parallel.pipeline)) if divided(shape) else 1


def recorded(plan: Plan) -> tuple[Timeline | None, Recording | None]:
    """One step on the tape, without the allocator."""
    taken: list[Recording] = []

    def record(*given: Any) -> Recording:  # noqa: ANN401 - whatever a recorder is given
        taken.append(record_step(*given))
        return taken[-1]

    step = simulate(plan, record)
    return step, taken[-1] if taken else None


def outside(card: Gpu, gpus: int) -> int:
    """Bytes of a device that PyTorch's allocator never sees."""
    return card.context + communicator_bytes(card, gpus)


def _heights(step: Timeline, recording: Recording) -> Heights:
    base = sum(step.base.values()) - recording.views
    phases = step.phases
    return Heights(
        phases["forward"] - base, phases["backward"] - base, phases["optimizer"] - base - step.step_temporaries,
        step.gradients - step.base.get("gradients", 0) + recording.views,
        step.after_forward - base,
        step.pinned, work(recording),
    )  # fmt: skip


def tokens(plan: Plan) -> int:
    """Tokens of a sequence, by which language models are paced; 1 where it is samples."""
    return plan.seq_len if plan.seq_len and plan.model.kind not in SAMPLED else 1


def followed(plan: Plan) -> bool:
    """Whether there are blocks whose step can be run; else what persists is all that is known."""
    return not (plan.model.nominal or plan.model.tables) and plan.model.kind in RUNNABLE


def _unseen(plan: Plan) -> Heights:
    """A model without blocks: gradients alone, and two operations for each active parameter and token, four back."""
    gradients = plan.local(plan.ledger()).total("gradients")
    forward = 2 * plan.model.active * max(plan.seq_len, 1) * plan.run.batch_size
    return Heights(0, gradients, gradients, gradients, 0, 0, Work(forward, 2 * forward, 0, 0))


def _ground(plan: Plan, local: Local, optimizer: Optimizer) -> Ground:
    setting = setting_of(replace(plan, optimizer=optimizer))
    parts = standing(local, optimizer, setting)
    away = plan.placement.offloaded
    plain = step_temporaries(local.states, optimizer, setting)
    return Ground(
        sum(nbytes for name, nbytes in parts.items() if name not in away),
        plan.placement.step(plain, local, optimizer, setting) if followed(plan) else 0,
        sum(parts.get(name, 0) for name in ("optimizer_states", "master_weights") if name not in away),
        sum(nbytes for name, nbytes in parts.items() if name in away and name != "weights"),
        _paged(replace(plan, optimizer=optimizer)) if _pages(optimizer) else 0,
    )


def _paged(plan: Plan) -> int:
    return plan.local(plan.ledger()).states.host[1]


def _pages(optimizer: Optimizer) -> bool:
    return any(state.device == "paged" for state in optimizer.states(LARGE, "fp32"))


def _seen(setting: Setting) -> Setting:
    """A setting without what the tape does not look at."""
    return replace(setting, master="", states="", expandable_segments=False)


def _kept_on_gpu(offload: str) -> Any:  # noqa: ANN401 - one of the words of `offload`
    return offload if offload == "activations" else "none"
