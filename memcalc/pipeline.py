"""The pipeline: a run in, a report out, readable in one screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.gpus import MIB, communicator_bytes, communicators_measured
from memcalc.report import (
    COMPONENTS,
    PERSISTENT,
    Components,
    GpuPart,
    Host,
    Memory,
    ModelPart,
    Note,
    Outside,
    Phases,
    RankPart,
    Report,
)
from memcalc.resolve import resolve, resolved_run
from memcalc.run import Run
from memcalc.run.meant import readings
from memcalc.run.question import Question
from memcalc.simulation import simulate
from memcalc.timeline.curve import EMPTY
from memcalc.units import format_bytes
from memcalc.verdict import verdict

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.ledger import Ledger
    from memcalc.plan import Plan
    from memcalc.report import FormulaPart, Phase
    from memcalc.sharding.strategy import Books
    from memcalc.timeline import Timeline

BEHIND = 0.85  # of the highest peak; fragments make up for less than that between ranks of one run


def estimate(
    source: Run | Mapping[str, Any] | str | Path, formula: str = "", over: Mapping[str, Any] | None = None
) -> Report:
    """The memory that a run takes, per GPU: from a Run, a mapping in its vocabulary, or the path of a run file.

    The path may also be another tool's config (Axolotl, DeepSpeed, a config.json …), recognised by what it holds.
    `formula` names a framework's published one, to be shown beside the answer: deepspeed or megatron. `over` holds keys
    of a run file that win over the source: estimate("zero3.json", over={"model": "llama-2-7b", "gpus": 8}).

    Raises RunInvalid (all faults, each with its place), UnknownName (a preset that does not exist) or UnreadableInput.
    """
    return load(source, over).answer(lambda run, beside: estimate_run(run, beside, formula))


def estimate_run(run: Run, beside: Path | None = None, formula: str = "", *, per_rank: bool = False) -> Report:
    """The report on a validated Run; `beside` is the folder its relative paths start from, `formula` a published one.

    With `per_rank` it has every distinct kind of rank: pipeline stages that hold other layers, a table or a head.
    """
    plan = resolve(run, beside)
    every = every_rank(plan) if per_rank else []
    memory = fullest(every) if every else memory_of(plan, plan.ledger())
    _note_the_node(plan, memory)
    return Report(
        run=resolved_run(plan),
        model=model_part(plan),
        memory=memory,
        gpu=gpu_part(plan),
        verdict=verdict(plan, memory),
        assumptions=tuple(Note(code=n.code, path=n.path, message=n.message) for n in plan.notes.assumptions),
        warnings=tuple(Note(code=n.code, path=n.path, message=n.message) for n in plan.notes.warnings),
        formula=_formula(plan, formula),
        ranks=tuple(rank_part(rank, held) for rank, held in every),
    )


def _formula(plan: Plan, name: str) -> FormulaPart | None:
    if not name:
        return None
    from memcalc.formulas import formula  # noqa: PLC0415 - few ask for one

    return formula(name, plan)


def load(source: Run | Mapping[str, Any] | str | Path, over: Mapping[str, Any] | None = None) -> Question:
    """The run, and where it was written; keys of `over` win over it."""
    over = over or {}
    if isinstance(source, Run):
        return Question(replace(source, **over))
    from memcalc.run.validation import parse_run  # noqa: PLC0415 - a Run needs no validation

    if isinstance(source, Mapping):
        given = {**source, **over}
        return Question(parse_run(given), given=frozenset(given), meant=readings(given))
    from memcalc.configs.opening import Asked, opened  # noqa: PLC0415 - only files need it

    return opened(source, Asked(over)).over(over).question()


def memory_of(plan: Plan, book: Ledger) -> Memory:
    """Bytes per GPU, on the fullest rank."""
    if plan.ranks:
        return fullest(contenders(plan))
    local = plan.local(book)
    held = {name: 0 if name in plan.placement.offloaded else local.total(name) for name in PERSISTENT}
    step, beside = simulate(plan), 0
    if plan.companions:
        held, step, beside = _accompanied(plan, held, step)
    _note_what_is_missing(plan, book, step)
    phases, phase, at_peak = _live(held, step)
    peak = sum(at_peak.values())
    reserved = max(step.reserved if step else 0, peak)
    outside = _outside(plan)
    return Memory(
        components=Components(
            **held,
            activations=step.activations if step else 0,
            buffers=step.buffers if step else local.buffers,
            temporary=at_peak["temporary"],
        ),
        persistent=sum(held.values()),
        phases=Phases(**phases),
        peak_allocated=peak,
        peak_phase=phase,
        at_peak=Components(**at_peak),
        reserved=reserved,
        outside_allocator=outside,
        total=reserved + outside.context + outside.communicators,
        host=_host(plan, local, beside + (step.pinned if step else 0)),
        curve=step.curve if step else EMPTY,
    )


def _host(plan: Plan, local: Books, pinned: int) -> Host:
    """What a rank has in host memory, with what the step and companions have `pinned` there."""
    pageable, paged = local.states.host
    host = plan.placement.hosted(local)
    return Host(pinned=host.pinned + pinned, pageable=host.pageable + pageable + paged)


def every_rank(plan: Plan) -> list[tuple[Plan, Memory]]:
    """Each distinct kind of rank, and the bytes of its GPU: one kind where the model is not divided."""
    return [(rank, memory_of(rank, rank.ledger())) for rank in plan.ranks or (plan,)]


def contenders(plan: Plan) -> list[tuple[Plan, Memory]]:
    """The kinds of rank that may be the fullest: the allocator is not replayed for those whose peak is far behind.

    Nor is the step of those recorded of which another kind holds all, and more.
    """
    ranks = [rank for rank in plan.ranks if not rank.surpassed]
    steps = [simulate(rank) for rank in ranks]
    peaks = [step.peak if step else 0 for step in steps]
    ahead = [rank for rank, peak in zip(ranks, peaks, strict=True) if peak >= BEHIND * max(peaks) or not min(peaks)]
    return [(rank, memory_of(rank, rank.ledger())) for rank in ahead]


def fullest(ranks: list[tuple[Plan, Memory]]) -> Memory:
    """The bytes of the rank that takes most."""
    return max((memory for _, memory in ranks), key=lambda memory: (memory.total, memory.peak_allocated))


def fullest_plan(plan: Plan) -> Plan:
    """The plan of the rank that takes most: the plan itself where the model is not divided."""
    if not plan.ranks:
        return plan
    return max(contenders(plan), key=lambda found: (found[1].total, found[1].peak_allocated))[0]


def node(plan: Plan) -> int:
    """How many ranks share a node's host memory."""
    return min(plan.run.gpus, plan.gpu.per_node if plan.gpu else 8)


def rank_part(rank: Plan, memory: Memory) -> RankPart:
    """One kind of rank, as the report shows it."""
    ranks = node(rank)
    host = Host(pinned=memory.host.pinned * ranks, pageable=memory.host.pageable * ranks)
    stage = rank.ways.stage if rank.ways else 0
    held = sum(tensor.parameters for tensor in rank.tensors)
    return RankPart(label=rank.label or "every rank", stage=stage, parameters=held, memory=memory, host_per_node=host)


def _accompanied(
    plan: Plan, held: dict[str, int], step: Timeline | None
) -> tuple[dict[str, int], Timeline | None, int]:
    """What persists and the step with the companions' own; and what of theirs is pinned in host memory."""
    from memcalc import companions  # noqa: PLC0415 - most runs have none

    theirs = companions.held(plan)
    whole = {name: nbytes + theirs[name] for name, nbytes in held.items()}
    return whole, companions.accompanied(plan, step), companions.pinned(plan)


def _outside(plan: Plan) -> Outside:
    """What the process takes besides the allocator: the runtime's context, and a communicator between several GPUs."""
    if plan.gpu is None:
        return Outside()
    degrees = plan.run.parallel
    sizes = (*plan.placement.communicators, degrees.tensor, degrees.pipeline, degrees.context, degrees.expert)
    groups = max(1, sum(size > 1 for size in sizes))
    exchanges = plan.ways is not None and plan.ways.expert > 1
    nccl = communicator_bytes(plan.gpu, plan.run.gpus, groups, all_to_all=exchanges)
    if nccl:
        count = "one NCCL communicator" if groups == 1 else f"{groups} NCCL communicators"
        least, most = (format_bytes(nbytes) for nbytes in communicators_measured())
        plan.notes.assume("gpus", "communicator",
                          f"{count}, from sizes measured on like links; they range from {least} to {most} each")  # fmt: skip
    if plan.ways is not None and plan.ways.overlapped:
        from memcalc.sharding.symmetric import workspace  # noqa: PLC0415 - few runs have one

        nccl += workspace(plan)
    return Outside(context=plan.gpu.context, communicators=nccl)


def _live(held: dict[str, int], step: Timeline | None) -> tuple[dict[str, int], Phase, dict[str, int]]:
    """Each phase's maximum, the phase of the peak, and what the peak is made of."""
    whole = {**dict.fromkeys(COMPONENTS, 0), **held}
    if step is None:
        persistent = sum(held.values())
        phases = {"forward": persistent - held["gradients"], "backward": persistent, "optimizer": persistent}
        return phases, "optimizer", whole
    at_peak = {**dict.fromkeys(COMPONENTS, 0), **step.at_peak}
    return {str(name): height for name, height in step.phases.items()}, step.peak_phase, at_peak


def _note_the_node(plan: Plan, memory: Memory) -> None:
    """The host memory of a node, where its ranks keep anything worth a word there."""
    host, ranks = memory.host.pinned + memory.host.pageable, node(plan)
    if host >= MIB and ranks > 1:
        plan.notes.assume(
            "offload", "node", f"host memory is one rank's: the {ranks} of a node take {format_bytes(host * ranks)}"
        )


def _note_what_is_missing(plan: Plan, book: Ledger, step: Timeline | None) -> None:
    if step is None:
        plan.notes.warn("", "activations-not-included",
                        "activations, logits and other temporaries are not included: only what persists is counted")  # fmt: skip
    if plan.placement.leaves_out:
        plan.notes.warn("sharding", "buffers-not-included", plan.placement.leaves_out)
    if book.host[1]:
        plan.notes.assume("optimizer", "paged-states",
                          "paged optimizer states are counted in host memory; the driver moves them as they are used")  # fmt: skip


def model_part(plan: Plan) -> ModelPart:
    """Which model a plan is of, its adapters counted in."""
    model = plan.model
    return ModelPart(
        name=model.name,
        architecture=model.architecture,
        parameters=model.parameters + plan.added,
        trainable=plan.trainable,
        active=model.active + plan.added,
    )


def gpu_part(plan: Plan) -> GpuPart:
    """Which GPU a plan runs on, and how many of them."""
    card = plan.gpu
    return GpuPart(name=card.name if card else None, count=plan.run.gpus, usable=card.usable if card else None)
