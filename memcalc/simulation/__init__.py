"""Run one step of a plan on the tape: what is live when, beyond what persists."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from memcalc.adapters.cards import completed
from memcalc.assumptions import assumed, reentrant
from memcalc.errors import MemcalcError
from memcalc.implementations import kernels
from memcalc.model import OF_IMAGES
from memcalc.packing import UNPACKED
from memcalc.run import OUTER
from memcalc.simulation.measuring import measure
from memcalc.tape.setting import Setting
from memcalc.tape.step import record_step
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from memcalc.optimizers import Optimizer
    from memcalc.packing import Packing
    from memcalc.plan import Plan
    from memcalc.run import Run, Spec
    from memcalc.simulation.measuring import Record
    from memcalc.timeline import Timeline

# kinds of models whose whole forward pass has rules
RUNNABLE = OF_IMAGES | {
    "causal-lm", "masked-lm", "seq2seq", "encoder", "classifier", "speech", "image-text", "diffusion"
}  # fmt: skip


def simulate(plan: Plan, record: Record = record_step, *, evaluating: bool = False) -> Timeline | None:
    """The timeline of one steady step of one replica; None where the model has no blocks to run or no rules yet."""
    if plan.model.nominal or plan.model.tables or plan.model.kind not in RUNNABLE:
        return None
    try:
        setting = setting_of(plan, evaluating=evaluating)
        timeline = measure(plan.model, plan.tensors, plan.optimizer, setting, plan.placement, record)
    except MemcalcError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if os.environ.get("MEMCALC_TRACEBACK"):
            raise
        plan.notes.warn("model", "tape-failed", f"the forward pass of this model could not be followed ({error})")
        return None
    _unmodelled(plan, timeline)
    if evaluating:  # what follows is about a training step
        return timeline
    _changed(plan)
    if plan.placement.streams and timeline.buffers and not setting.streams:
        _one_stream(plan, timeline)
    for path, code, message in assumed(plan):
        plan.notes.assume(path, code, message)
    return timeline


def _changed(plan: Plan) -> None:
    """Note what of the run the step does otherwise than asked."""
    if plan.run.checkpointing.mode != "none" and not plan.model.checkpoints:
        plan.notes.warn("checkpointing", "not-supported",
                        f"transformers has no activation checkpointing for {plan.model.architecture}: none is counted")  # fmt: skip
    if plan.model.kind == "encoder":
        plan.notes.assume(
            "model", "loss", "a base model has no loss of its own; the mean of its last hidden state is taken"
        )
    if plan.model.objects:
        plan.notes.assume("model", "objects", f"{plan.model.objects} objects in every image, each with a mask of its size: what "
                                              "the loss makes grows with their number")  # fmt: skip
    if plan.run.loss.kind not in ("standard", "fused", "compiled"):
        _usual(plan, plan.run.loss.kind)


def _usual(plan: Plan, loss: str) -> None:
    """Note where a loss that reads hidden states, not logits, is none for this model."""
    from memcalc.tape.hf.losses import opened, takes  # noqa: PLC0415 - few runs ask for another loss
    from memcalc.tape.hf.programs import split  # noqa: PLC0415

    why = ""
    if loss == "label-smoothing" and plan.model.kind in ("seq2seq", "masked-lm", "classifier"):
        return
    if plan.model.kind != "causal-lm":
        why = f"{loss} is for causal language models"
    elif plan.run.implementation == "megatron":
        why = f"{loss} is not followed in Megatron-LM's modules"
    elif not takes(loss, opened(split(plan.model.body)[1])):
        why = f"{loss} is not followed for this model's head"
    divided = plan.run.parallel
    if why:
        plan.notes.warn("loss", "standard-loss", f"{why}: the usual loss is counted")
    elif loss in OUTER and divided.tensor > 1 and divided.tp_plan == "torchtitan":
        plan.notes.warn("loss", "divided-logits", f"{loss} is counted over each rank's part of the vocabulary, as torchtitan "
                        "takes cross entropy; a trainer that puts the logits together first takes more")  # fmt: skip


def _one_stream(plan: Plan, timeline: Timeline) -> None:
    plan.notes.assume("sharding", "streams", "no GPU is named: the allocator is replayed as if all ran on one stream; gathers "
                      f"and reductions have their own on a GPU, so that part of the {format_bytes(timeline.buffers)} they "
                      "take at most may be reserved on top")  # fmt: skip


def _unmodelled(plan: Plan, timeline: Timeline) -> None:
    """Warn of what the tape has no rule for."""
    if plan.adapted and not plan.adapted.followed and plan.run.lora:
        plan.notes.warn("lora", "adapter-not-followed",
                        f"the parameters, gradients and optimizer states of {plan.run.lora.method} are counted; what its forward "
                        "pass computes on the way is not")  # fmt: skip
    if plan.model.unread:
        plan.notes.warn("model", "part-not-followed", f"what {plan.model.unread} computes and keeps is not counted")
    for kind in timeline.unmodelled:
        plan.notes.warn("model", "block-not-modelled",
                        f"no rule for {kind} blocks yet: counted as the plain form of their kind, or by an upper bound "
                        "(fp32 inputs and outputs of their matrices, and scores)")  # fmt: skip


def _packing(spec: Spec) -> Packing:
    from memcalc.quantization.storage import scheme  # noqa: PLC0415 - few runs need it

    return scheme(spec).packing


def _inputs(plan: Plan) -> str:
    """The dtype of latents and text of a denoiser whose frozen part is kept in one of its own: that (diffusers, examples)."""
    apart = plan.model.kind == "diffusion" and not plan.run.lora and plan.recipe.frozen != plan.recipe.weights
    return plan.recipe.frozen if apart else ""


def setting_of(plan: Plan, *, evaluating: bool = False) -> Setting:
    """What decides a step's allocations, in the tape's words."""
    run, recipe = plan.run, plan.recipe
    others = run.implementation not in ("hf", "megatron")
    fused = kernels(run.implementation, plan.model.architecture) if others else {}
    megatron = run.implementation == "megatron"
    return Setting(
        batch=1 if run.packing else run.batch_size,
        seq=plan.seq_len * (run.batch_size if run.packing else 1),
        packed=run.batch_size if run.packing else 0,
        target=run.target_len or 0,
        images=1 if run.images is None else run.images,
        image_size=run.image_size or (),
        frames=run.frames or 1,
        weights=recipe.weights,
        inputs=_inputs(plan),
        frozen=recipe.frozen,
        master="" if run.lora and not plan.placement.masters else recipe.master,
        gradients=recipe.gradients,
        states="" if recipe.states == "param" else recipe.states,
        autocast=recipe.autocast,
        attention=run.attention,
        checkpoint=run.checkpointing.mode != "none" and plan.model.checkpoints and not megatron,
        selective=run.checkpointing.mode == "selective",
        offload_inputs=run.checkpointing.offload,
        offload_activations=offloading(run),
        reentrant=reentrant(run),
        every=run.checkpointing.every,
        loss=fused.get("loss", "standard") if run.loss.kind == "standard" else run.loss.kind,
        chosen_too=run.loss.nll,
        loss_fp32=run.loss.fp32,
        loss_entropy=run.loss.entropy,
        chunks=run.loss.chunks or 0,
        chunk_size=fused.get("chunk_size", 1),
        keep_outputs=run.keep_outputs,
        expandable_segments=run.expandable_segments,
        streams=plan.gpu is not None,
        evaluating=evaluating,
        accumulating=run.grad_accum > 1 or megatron,
        lora_dropout=run.lora.dropout if run.lora else 0.0,
        adapter=run.lora.method if run.lora else "",
        adapter_options=tuple(completed(run.lora).options.items()) if run.lora else (),
        fused=frozenset(fused.get("parts", ())),
        compute=recipe.compute,
        spends=spends(plan.optimizer),
        packing=_packing(run.quantize) if run.quantize else UNPACKED,
        ways=plan.ways,
    )


def offloading(run: Run) -> Literal["", "each", "once"]:
    """Whose OffloadActivations sends away what autograd saves: torchtune's with its modules, else TRL's."""
    if run.offload != "activations":
        return ""
    return "each" if run.implementation.startswith("torch") else "once"


def spends(optimizer: Optimizer) -> Literal["", "at once", "late"]:
    """When an optimizer uses gradients up: those built for the backward pass find the gradient before the newest."""
    if not optimizer.frees_gradients:
        return ""
    return "late" if optimizer.implementation == "backward" else "at once"
