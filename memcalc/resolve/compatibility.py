"""What a model, a precision and a run's switches do not do together, in the words the libraries would use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Stack
from memcalc.blocks.basic import Conv, Embedding
from memcalc.errors import Fault
from memcalc.model import OF_IMAGES
from memcalc.models import NOMINAL
from memcalc.presets import find, has

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.precision import Recipe
    from memcalc.run import Run


SCORING = ("log-probs", "log-softmax")  # losses of whole logits that a cross entropy may be added to
# losses taken of a chunk of logits at a time; some kernels' own loss is one of them
CUT = ("fused-linear", "chunked")
CACHED = {"prefix": "PREFIX_TUNING", "cartridge": "CARTRIDGE"}  # methods whose virtual tokens are in a cache


def incompatible(run: Run, model: Model, recipe: Recipe) -> Iterator[Fault]:
    """Every fault that shows once the model and the recipe are known."""
    if run.attention == "flash" and model.kind != "tensors":
        yield from _flash(model, recipe)
    if run.packing and model.kind not in ("causal-lm", "tensors"):
        yield Fault("packing", "sequences are packed into one row for causal language models; "
                               f"{model.name or 'this model'} is none (kind: {model.kind})")  # fmt: skip
    if run.lora and NOMINAL in model.notes and run.lora.targets is None:
        yield Fault("model", "a bare size has no modules for adapters; name a model of that size (memcalc models)")
    if run.lora and run.lora.method in CACHED and run.checkpointing.mode != "none":
        yield Fault("checkpointing", f"{CACHED[run.lora.method]} does not work with gradient checkpointing (peft): layers in "
                                     "checkpoints are given no cache, and virtual keys and values are in one")  # fmt: skip
    if run.lora and run.lora.method in CACHED:
        yield from _uncached(model)
    if recipe.autocast and has("architectures", model.architecture):
        yield from _cast(model, find("architectures", model.architecture).get("without_autocast", ""))
    yield from _positions(run, model)


def _uncached(model: Model) -> Iterator[Fault]:
    """PeftModelForSequenceClassification and its kin look for past_key_values in what the base model is called with."""
    if model.kind == "classifier" and model.architecture in find("adapters", "incompatible")["without_cache"]:
        yield Fault("lora.method", "Model does not support past key values which are required for prefix tuning (peft)")


def _cast(model: Model, error: str) -> Iterator[Fault]:
    """A class may put what autocast makes into what it does not."""
    if error:
        yield Fault(
            "precision", f"transformers' {model.architecture} fails under autocast ({error}); take bf16, fp16 or fp32"
        )


def _flash(model: Model, recipe: Recipe) -> Iterator[Fault]:
    """flash_attn takes half precision only, and transformers asks the class whether it may be used."""
    if recipe.compute == "fp32" and not recipe.autocast:
        yield Fault("attention", "FlashAttention only supports fp16 and bf16; this precision computes in fp32: "
                                 "take bf16 or amp-bf16, or attention: sdpa")  # fmt: skip
    if model.architecture in find("implementations", "flash-attention")["unsupported"]:
        yield Fault(
            "attention", f"transformers' {model.architecture} does not support Flash Attention 2; use sdpa or eager"
        )


def _positions(run: Run, model: Model) -> Iterator[Fault]:
    """A table of learned positions has no row for a token beyond it: `IndexError: index out of range in self`."""
    if model.kind in OF_IMAGES or model.kind in ("diffusion", "tensors"):
        return
    rows = [table.rows for table in _tables(model.body)]
    if not rows:
        return
    most = min(*rows, model.context or rows[0])
    for key, length in (("seq_len", run.seq_len), ("target_len", run.target_len)):
        if length and length > most and not (key == "seq_len" and model.kind == "speech"):
            yield Fault(key, f"{length} tokens are more than the {most} learned positions of {model.name or 'this model'}: "
                             "index out of range in self")  # fmt: skip


def _tables(block: Block) -> Iterator[Embedding]:
    """Learned tables of positions before the layers; within they are of distances (T5), behind convolutions of patches.

    Towers of images and sounds count their own; one may stand in one row with the text it is shown with (ViLT).
    """
    if block.duty == "tower":
        yield from _tables(block.text()) if hasattr(block, "text") else ()
        return
    if isinstance(block, Stack) or any(_convolves(part) for _, part in block.groups()):
        return
    if isinstance(block, Embedding) and block.trainable and block.index in ("positions", "token-positions"):
        yield block
    for _, part in block.groups():
        yield from _tables(part)


def _convolves(block: Block) -> bool:
    return isinstance(block, Conv) or (not block.name and any(isinstance(part, Conv) for part in block.parts()))


def without_effect(run: Run) -> Iterator[tuple[str, str]]:
    """(key, why) of what is asked of a loss that does not read it, and of tensor parallelism where there is none."""
    if run.loss.nll and run.loss.kind not in SCORING:
        yield "loss.nll", f"changes nothing: it is read by {' and '.join(SCORING)}"
    for key in ("fp32", "entropy"):
        if getattr(run.loss, key) and run.loss.kind != "kernel-log-probs":
            yield f"loss.{key}", "changes nothing: it is read by kernel-log-probs"
    if run.loss.chunks and run.loss.kind not in CUT and (run.loss.kind != "standard" or run.implementation == "hf"):
        yield "loss.chunks", f"changes nothing: it is read by {' and '.join(CUT)}"
    if run.parallel.tensor > 1:
        return
    if run.parallel.tp_plan == "auto":
        yield "parallel.tp_plan", "changes nothing: it says what tensor parallelism divides, and parallel.tensor is 1"
    if run.sharding and run.sharding.options.get("enable_async_tensor_parallel"):
        yield (
            "sharding.enable_async_tensor_parallel",
            "changes nothing without tensor parallelism: parallel.tensor is 1",
        )
