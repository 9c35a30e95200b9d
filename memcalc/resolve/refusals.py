"""What memcalc would get wrong is refused, rather than answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.errors import Fault, RunInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.run import Checkpointing, Run


def refuse_unmodelled(run: Run) -> None:
    """RunInvalid with all of a run that is not modelled at once."""
    faults = [] if run.implementation == "megatron" else list(_undivided(run))
    if run.implementation == "megatron":
        faults += _beyond_megatron(run)
    faults += _contradicting_checkpoints(run.checkpointing)
    faults += _cut_magnitudes(run)
    if run.parallel.pipeline > 1 and run.sharding and run.sharding.strategy in ("zero2", "zero3"):
        faults.append(Fault("sharding", "ZeRO-2 and ZeRO-3 are incompatible with pipeline parallelism"))
    if faults:
        raise RunInvalid(faults)


def _beyond_megatron(run: Run) -> Iterator[Fault]:
    """What is not put into Megatron-LM's modules."""
    if run.quantize:
        yield Fault("quantize", "Megatron-LM's modules have no quantised weights; use implementation: hf")
    if run.lora and run.lora.method != "lora":
        yield Fault("lora.method", f"{run.lora.method} in Megatron-LM's modules is not modelled; lora is")
    strategy = run.sharding.strategy if run.sharding else ""
    if strategy in ("fsdp", "hsdp") or (strategy in ("zero2", "zero3") and run.parallel.pipeline == 1):
        yield Fault("sharding", f"{strategy} around Megatron-LM's modules is not modelled; megatron and zero1 are")


def _undivided(run: Run) -> Iterator[Fault]:
    """Ways to divide a model that transformers' modules are not modelled under."""
    p, how = run.parallel, run.sharding
    fully = how is not None and how.strategy in ("fsdp", "hsdp") and how.options.get("version") not in (1, "1")
    own = run.implementation.startswith("torchtitan")
    planned = p.context == 1 and (p.tensor == 1 or p.tp_plan == "auto")
    if fully and not own and planned and p.expert > 1 and p.pipeline > 1:
        yield Fault(
            "parallel.expert", "Combining token dispatch with pipeline parallelism is not supported/tested yet."
        )
    elif p.expert > 1 and not (fully and (own or planned)) and not (planned and not own and _beside_tensor(run)):
        yield Fault("parallel.expert", "expert parallelism is modelled with modules of Megatron-LM or torchtitan (implementation: "
                                       "megatron), and with FSDP2, as transformers has it (fsdp; tp_plan: auto), or over all "
                                       "ranks of its own tensor parallelism")  # fmt: skip
    if own and p.expert > 1 and p.expert_tensor not in (None, 1, p.tensor):
        yield Fault("parallel.expert_tensor", "Currently we only support ETP=TP or ETP=1")
    if run.parallel.schedule == "dualpipe":
        yield Fault("parallel.schedule", "DualPipe is modelled with implementation: megatron")


def _beside_tensor(run: Run) -> bool:
    """Whether experts are dealt out over all ranks, which share the rest by a plan of transformers' own: fsdp_size is 1."""
    p = run.parallel
    return run.gpus == p.tensor == p.expert and not (run.sharding and run.sharding.strategy != "none")


def _cut_magnitudes(run: Run) -> Iterator[Fault]:
    """DoRA asks for a shape that peft's fsdp_auto_wrap_policy has cut: lora_A.weight.shape[1] (tuners/lora/dora.py)."""
    how = run.sharding
    if how is None or run.lora is None or not run.lora.dora or how.strategy not in ("fsdp", "hsdp"):
        return
    given = how.options
    cut = given.get("sharding_strategy") != "NO_SHARD" and given.get("wrap") != "none" and run.gpus > 1
    if given.get("version") in (1, "1") and given.get("use_orig_params") in (True, "true") and cut:
        yield Fault(
            "sharding.use_orig_params",
            "DoRA fails with FSDP's use_orig_params (in peft: IndexError: tuple index out of range, for lora_A is a flat shard); "
            "it works with use_orig_params: false",
        )


def _contradicting_checkpoints(checkpointing: Checkpointing) -> Iterator[Fault]:
    """What torch.utils.checkpoint, or the code around it, does not do together."""
    if checkpointing.mode == "selective" and checkpointing.reentrant:
        yield Fault(
            "checkpointing.reentrant",
            "selective checkpointing has a context_fn: torch takes it without re-entrance only",
        )
    if checkpointing.offload and checkpointing.mode != "full":
        yield Fault(
            "checkpointing.offload", f"inputs of layers are saved where mode is full; it is {checkpointing.mode}"
        )
