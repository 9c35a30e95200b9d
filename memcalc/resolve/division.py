"""A plan for each kind of rank of a run that divides its model: tensor, pipeline, context and expert parallelism."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.errors import fault
from memcalc.sharding import placement
from memcalc.sharding.expert import experts_tensor
from memcalc.sharding.ranks import has_experts, ranks
from memcalc.sharding.tensor_parallel import MIXERS, has

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memcalc.model import Model
    from memcalc.notes import Notes
    from memcalc.plan import Plan
    from memcalc.run import Run
    from memcalc.tensors import Tensor
    from memcalc.ways import Ways


def with_ranks(plan: Plan, tensors_of: Callable[[Run, Model], tuple[Tensor, ...]]) -> Plan:
    """The plan with one for each distinct kind of rank; `tensors_of` a local model are those after adapters and so on."""
    run, notes = plan.run, plan.notes
    options, ways = _ways(run, plan.model)
    found = ranks(run, plan.model, ways, options, plan.seq_len)
    _note(run, notes, plan.model.tp_plan)
    if run.parallel.tensor > 1 and run.implementation != "megatron" and has(plan.model.body, MIXERS):
        notes.assume("parallel.tensor", "whole-mixers", "every rank runs state-space and linear-attention mixers whole, as "
                     "transformers' base_model_tp_plan leaves them")  # fmt: skip
    made = tuple(
        replace(
            plan, model=rank.model, tensors=_tensors(run, rank.model, tensors_of), placement=placement(run, rank.model),
            seq_len=plan.seq_len // run.parallel.context, ways=rank.ways, label=rank.label, surpassed=rank.surpassed,
        )
        for rank in found
    )  # fmt: skip
    return replace(plan, ranks=made)


def _tensors(run: Run, part: Model, tensors_of: Callable[[Run, Model], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A rank's tensors; adapters of Megatron-LM's modules are put on its linears, whatever transformers calls them."""
    if run.implementation != "megatron" or not run.lora:
        return tensors_of(run, part)
    from memcalc.sharding.adapting import as_linears, translated  # noqa: PLC0415 - few runs have adapters there

    return tensors_of(replace(run, lora=translated(run.lora, part)), as_linears(part))


def _ways(run: Run, model: Model) -> tuple[Mapping[str, Any], Ways]:
    """The framework's options, and how it divides a model."""
    if run.implementation == "megatron":
        from memcalc.sharding.megatron import ways_of  # noqa: PLC0415 - one framework a run
        from memcalc.sharding.megatron_options import options  # noqa: PLC0415

        found = options(run.sharding.options if run.sharding and run.sharding.strategy == "megatron" else {})
        ways = ways_of(run, found, mixtures=has_experts(model.body))
        if run.sharding and run.sharding.strategy != "megatron":  # Megatron-DeepSpeed: gradients are autograd's
            ways = replace(ways, accumulates=False)
        return found, ways
    from memcalc.ways import Ways  # noqa: PLC0415

    p = run.parallel
    plan = model.tp_plan if p.tp_plan == "auto" else ()
    mixtures = p.tensor > 1 and has_experts(model.body) and dict(plan).get("experts") != "whole"
    deepspeed = run.sharding is not None and run.sharding.strategy.startswith("zero")
    return {}, Ways(
        distributes=p.tensor > 1 and not deepspeed,
        tensor=p.tensor, sequence=p.sequence, context=p.context, expert=p.expert,
        expert_tensor=experts_tensor(run) if mixtures else 1, multiple=0, replicates_heads=False, overlapped=_overlapped(run),
        whole_logits=p.tp_plan == "auto" and p.tensor > 1, plan=plan,
    )  # fmt: skip


def _overlapped(run: Run) -> bool:
    """Whether collectives of tensor parallelism go piece by piece beside the products (torchtitan, maybe_enable_async_tp)."""
    word = "enable_async_tensor_parallel"
    if run.parallel.tensor == 1 or not (run.sharding and run.sharding.options.get(word)):
        return False
    if not run.implementation.endswith("compiled"):
        raise fault(f"sharding.{word}", "Async TP requires 'model' in --compile.components and --compile.enable; "
                                        "write implementation: torchtitan-compiled")  # fmt: skip
    return True


def _note(run: Run, notes: Notes, plan: Sequence[object]) -> None:
    p = run.parallel
    if p.tp_plan == "auto" and p.tensor > 1 and not plan:
        notes.warn("parallel.tp_plan", "not-modelled", "what transformers' own plan of this model divides is not known here: "
                                                       "its heads and inner widths are taken to be divided")  # fmt: skip
    if p.pipeline > 1 and run.grad_accum < p.pipeline:
        notes.assume("grad_accum", "bubbles", f"{run.grad_accum} micro batches do not fill a pipeline of {p.pipeline} stages: "
                                              "fewer are in flight than it could hold")  # fmt: skip
    if run.implementation != "megatron":
        notes.assume(
            "parallel",
            "whose-modules",
            "transformers' modules with smaller heads and widths, as "
            + ("their own plans divide" if p.tp_plan == "auto" else "torchtitan divides")
            + " them",
        )
        if p.expert > 1 and run.implementation.startswith("torchtitan"):
            notes.assume("parallel.expert", "balanced", "tokens go to their experts' ranks and back as torchtitan sends them "
                         "(ExpertParallel): every rank is taken to get as many as it sends")  # fmt: skip
        elif p.expert > 1:
            notes.assume("parallel.expert", "balanced", "tokens go to their experts' ranks and back as transformers sends them "
                         "(AllToAllEP): every rank is taken to get as many as it sends")  # fmt: skip
        if p.context > 1:
            notes.assume("parallel.context", "gathered-keys",
                         "keys and values of all ranks are gathered and outputs merged in fp32, as torch does it")  # fmt: skip
