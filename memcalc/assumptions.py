"""What is assumed of a step where libraries differ, or where only their source says what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from memcalc.tape.hf.surroundings import runs_eagerly, tells_positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.attention import Attention
    from memcalc.blocks.mla import Mla
    from memcalc.plan import Plan
    from memcalc.quantization.storage import Spec
    from memcalc.run import Run

Assumption: TypeAlias = "tuple[str, str, str]"  # key of the run, code, sentence
LOSSES = {
    "compiled": "cross entropy as torch.compile fuses it: logits stay in their own dtype, and one gradient of that",
    "fused": "Liger's cross entropy in place of torch's: the gradient is written over the fp32 logits",
    "fused-linear": "Liger's fused linear cross entropy: chunks of logits no larger than the hidden states",
    "chunked": "torchtune's CEWithChunkedOutputLoss: each chunk's log-softmax stays for the backward pass, its logits instead "
    "where it is compiled; torchtitan's ChunkedLossWrapper: each chunk goes back before the next",
    "fused-log-probs": "TRL's fused head: log-probabilities by tiles of logits that are made again in the backward pass; every "
    "token counts, those of a prompt too, which it leaves out",
    "log-probs": "log-probabilities from whole logits, whose log-softmax is taken row by row (TRL's selective_log_softmax)",
    "log-softmax": "log-probabilities from whole logits in fp32, whose log-softmax is taken at once (LLaMA-Factory's "
    "get_batch_logps)",
    "kernel-log-probs": "log-probabilities by flash-attn's cross entropy, of whole logits: verl's, which are divided by the "
    "temperature and overwritten by their gradient, or OpenRLHF's in fp32",
    "label-smoothing": "the Trainer's LabelSmoother, which keeps the log-softmax of all logits twice",
    "distillation": "a divergence of all of the teacher's probabilities and the model's (TRL's GKD, beta between 0 and 1)",
}
_COMPILED = ("layers as torch.compile's partitioner cuts them: what products and attention of the backward pass read is "
             "kept, pointwise operations are made again")  # fmt: skip
KERNELS = {
    "hf-liger": "kernels as apply_liger_kernel_to_… puts them in, its loss included",
    "unsloth": "Unsloth's kernels and functions of December 2024; its fused linear loss stands for cut cross entropy too",
    "torchtune-compiled": _COMPILED,
    "torchtitan-compiled": _COMPILED,
}


def assumed(plan: Plan) -> Iterator[Assumption]:
    """What the tape takes from a library's source, or decides where libraries differ."""
    run = plan.run
    mixers = cast("list[Attention | Mla]", plan.model.duties.get("attention", []))
    yield from _of_the_model(plan, mixers)
    towers = plan.model.duties.get("tower", ())
    if not all(hasattr(tower, "scattered") for tower in towers):  # what reads no images hears
        yield "model", "no-sound", ("activations are those of a batch without sound; what reads recordings counts with what "
                                    "persists of it")  # fmt: skip
    yield from _of_packing(plan, mixers)
    megatron = run.implementation == "megatron"
    if run.attention == "sdpa" and not megatron and any(getattr(mixer, "dropout", 0) for mixer in mixers):
        yield "attention", "sdpa-dropout", ("attention dropout makes sdpa run as plain operations, as recorded with PyTorch's CPU "
                                            "build; a GPU's fused kernel keeps less: see attention: flash")  # fmt: skip
    if run.quantize:
        yield from _of_products(run.quantize)
    if run.implementation in KERNELS:
        yield "implementation", "whose-kernels", KERNELS[run.implementation]
    if run.checkpointing.mode == "selective" and not megatron:
        yield "checkpointing", "whose-choice", ("transformers has no selective checkpointing: outputs of attention and of every "
                                                "second product are kept, as torchtitan's policy says")  # fmt: skip
    yield from _of_offloading(run)
    if run.loss.kind != "standard" and not any(remark.code == "standard-loss" for remark in plan.notes.warnings):
        yield "loss", "whose-loss", LOSSES[run.loss.kind]


def _of_the_model(plan: Plan, mixers: list[Attention | Mla]) -> Iterator[Assumption]:
    attention = plan.run.attention
    if plan.model.choices > 1:
        yield "model", "choices", (f"every question of a batch comes with {plan.model.choices} choices, a sequence each; "
                                   "num_choices among the model's keys says otherwise")  # fmt: skip
    if attention != "eager" and runs_eagerly(mixers, attention):
        yield (
            "attention",
            "eager-only",
            "transformers has no fused attention for this model: it runs as if eager were asked for",
        )
    marked = [tokens for mixer in mixers if (tokens := getattr(mixer, "tokens", None)) is not None]
    if marked:
        yield "model", "global-tokens", f"sequences with {max(marked) or 'no'} global token{'s' * (not max(marked))}"
    if "recurrence" in plan.model.duties:
        yield "model", "no-kernels", ("recurrent layers as transformers runs them where mamba-ssm, causal-conv1d or "
                                      "flash-linear-attention is not installed: their kernels keep far less")  # fmt: skip


def _of_packing(plan: Plan, mixers: list[Attention | Mla]) -> Iterator[Assumption]:
    if not plan.run.packing:
        return
    if plan.run.attention == "flash":
        apart = "whose sequences flash attention tells apart by their positions"
    elif all(tells_positions(mixer) for mixer in mixers):
        apart = "whose sequences a mask of its tokens against its tokens tells apart"
    else:
        apart = "and no mask from this model's positions in transformers: tokens see the sequences before theirs"
    yield "packing", "row", f"one row of {plan.seq_len * plan.run.batch_size} tokens, {apart}"


def _of_products(spec: Spec) -> Iterator[Assumption]:
    """How weights stored this way are multiplied."""
    from memcalc.quantization.storage import scheme  # noqa: PLC0415 - few runs need it

    how = scheme(spec)
    if how.packing.product == "int8":
        yield (
            "quantize",
            "no-outliers",
            "inputs without outliers (threshold 6.0): the columns that have some are copied too",
        )
    elif how.library != "bitsandbytes":
        when = {"fp8": "in the backward pass", "fused": "in the backward pass"}.get(
            how.packing.product, "forward and backward"
        )
        kept = "forward, and autograd keeps it for the backward pass: checkpointing spares that"
        yield (
            "quantize",
            "unpacked-weights",
            f"{how.library} unpacks a whole weight for each product, {kept if how.packing.keeps_weight else when}",
        )


def reentrant(run: Run) -> bool:
    """Whether checkpoints run backward within the backward pass: where asked to, and where they are Unsloth's that offload."""
    return run.checkpointing.reentrant or (run.checkpointing.offload and run.implementation == "unsloth")


def _of_offloading(run: Run) -> Iterator[Assumption]:
    """Whose code takes what is kept to host memory."""
    if run.checkpointing.offload:
        yield (
            "checkpointing.offload",
            "whose-offload",
            "layer inputs go to host memory and back as Unsloth's checkpointing does it"
            if reentrant(run)
            else "layer inputs go to host memory and back by save_on_cpu around the checkpoint, as transformers' `offload` has it",
        )
    if run.offload == "activations":
        yield (
            "offload",
            "whose-offload",
            "what autograd saves goes to host memory as torchtune's OffloadActivations does it"
            if run.implementation.startswith("torch")
            else "what autograd saves goes to host memory as TRL's OffloadActivations does it: what is saved again while it is on "
            "its way stays on the GPU",
        )
