"""What a model is as another's companion: with a score for a head, or only the half of it that encodes; how it is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Sequence, Unused
from memcalc.blocks.diffusion import Sample
from memcalc.errors import RunInvalid, fault
from memcalc.resolve.pictures import pictured

if TYPE_CHECKING:
    from memcalc.adapters import Adapted, Lora
    from memcalc.model import Model
    from memcalc.plan import Plan
    from memcalc.run import Companion, Run
    from memcalc.tensors import Tensor

SCORED = ("reward", "value")  # roles that end in a score instead of logits


def cast(model: Model, companion: Companion, run: Run) -> Model:
    """The model as its role needs it, of a run that reads images of some size."""
    if companion.role in SCORED and model.kind == "causal-lm":
        return _of_class(model, "ForSequenceClassification", num_labels=1)
    if companion.role == "encoder":
        if companion.model == "same":
            raise fault("companions", "an encoder is another model, whose output the trained one reads: say which")
        if companion.after:
            raise fault(
                "companions", "an encoder makes what the trained model reads, and runs before it: leave out `after`"
            )
        return _encoding(
            pictured(model, replace(run, images=None, frames=None)) if model.kind == "diffusion" else model
        )
    return model


def _of_class(model: Model, name: str, **more: int) -> Model:
    """The model as transformers' Auto class of that name loads it; as it is where the library has no such class."""
    from memcalc.architectures import build  # noqa: PLC0415 - few roles ask for it

    if model.dimensions is None:
        return model
    given = {**model.dimensions.given(), "architectures": [name], **more}
    try:
        return build(model.architecture, given, model.name).called(model.name, model.architecture)
    except RunInvalid:
        return model


def _encoding(model: Model) -> Model:
    """Of an encoder-decoder the encoder (T5EncoderModel); an autoencoder is there whole, and runs as far as its latents."""
    if model.kind == "seq2seq":
        return _of_class(model, "EncoderModel")
    return _to_latents(model, model.body) if isinstance(model.body, Sequence) else model


def _to_latents(model: Model, body: Sequence) -> Model:
    """An autoencoder whose decoder is there and never run; a model that samples no latents as it is."""
    everything = len(body.blocks)
    sampled = next((place + 1 for place, block in enumerate(body.blocks) if isinstance(block, Sample)), everything)
    if sampled == everything:
        return model
    return replace(model, body=replace(body, blocks=(*body.blocks[:sampled], Unused("", body.blocks[sampled:]))))


def adapted_tensors(model: Model, lora: Lora, dtype: str, where: str) -> Adapted:
    """The model's tensors with adapters; RunInvalid with the companion's own place."""
    from memcalc.adapters import adapt  # noqa: PLC0415 - few companions have adapters

    try:
        return adapt(model.tensors, lora, model.architecture, model.dimensions, dtype)
    except RunInvalid as error:
        raise RunInvalid([replace(each, where=f"{where}.{each.where}") for each in error.faults]) from error


def packed(
    companion: Companion, model: Model, tensors: tuple[Tensor, ...], dtype: str, where: str
) -> tuple[Tensor, ...]:
    """The tensors with those packed that do not learn; RunInvalid where all of them do."""
    from memcalc.quantization import quantize  # noqa: PLC0415 - few companions are packed

    if companion.trainable and not companion.lora:
        raise fault(f"{where}.quantize", "quantised weights can't be trained; add `lora: {rank: 16}` to train adapters")
    return quantize(tensors, companion.quantize or "", dtype, model.architecture, model.dimensions).tensors


def kept_in(own: Plan) -> str:
    """How its weights are stored."""
    stored = own.run.quantize
    if stored:
        return stored if isinstance(stored, str) else str(stored.get("name", "packed weights"))
    return own.recipe.frozen if own.adapted else own.recipe.weights
