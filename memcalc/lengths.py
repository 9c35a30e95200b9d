"""How long the sequences of a run are: as asked, or as assumed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.errors import Fault, RunInvalid
from memcalc.model import OF_IMAGES

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.notes import Notes
    from memcalc.run import Run

DEFAULT_SEQUENCE = 2048
DEFAULT_SECONDS = 10  # of sound
SPOKEN = 6  # tokens of text to a second of speech; Moonshine stops at 6.5 (Jeffries et al. 2024)
COLOURS = 3
WAVEFORM = 8000  # inputs a second and more are samples of a waveform, not frames of a spectrogram


def lacks(model: Model, key: str) -> str:
    """What a model has none of, where a length that is asked for by `key` would change nothing; '' where it has it."""
    if key == "seq_len" and (model.kind in OF_IMAGES or (model.kind == "diffusion" and not model.text)):
        return "sequence"
    if key == "target_len" and model.kind not in ("seq2seq", "speech"):  # targets are decoded, or aligned by CTC
        return "target sequence"
    return ""


def unit(model: Model) -> str:
    """What a sequence of sound is counted in."""
    return "samples" if model.rate >= WAVEFORM else "frames"


def assumed_length(model: Model) -> int:
    """Tokens of a sequence whose length nobody says: 2048, or the model's limit; ten seconds where it is of sound."""
    if model.rate:
        return DEFAULT_SECONDS * model.rate
    return min(DEFAULT_SEQUENCE, model.context or DEFAULT_SEQUENCE)


def sequence(run: Run, model: Model, notes: Notes) -> int:
    """The sequence length: as asked, else 2048 or the model's limit; 0 for images, whose model says their size."""
    if model.kind in OF_IMAGES:
        notes.assume("model", "input", _input(model))
        return 0
    if model.kind == "diffusion":
        return _text(run, model, notes)
    if model.rate:
        return _sound(run, model, notes)
    if run.seq_len is None:
        length = assumed_length(model)
        capped = f", the model's limit of positions being {model.context}" if length < DEFAULT_SEQUENCE else ""
        notes.assume("seq_len", "default", f"sequences of {length} tokens{capped}")
        return length
    if model.context and run.seq_len > model.context:
        notes.warn("seq_len", "beyond-positions",
                   f"{run.seq_len} tokens are more than the {model.context} positions of {model.name}")  # fmt: skip
    return run.seq_len


def _sound(run: Run, model: Model, notes: Notes) -> int:
    """Samples or frames of a sequence of sound: as asked, else of ten seconds."""
    length = run.seq_len or assumed_length(model)
    said = "sequences of sound" if run.seq_len else f"sequences of {DEFAULT_SECONDS} seconds of sound"
    notes.assume("seq_len", unit(model), f"{said}, in {unit(model)}: {model.rate:,} make a second")
    return length


def transcribed(run: Run, model: Model, length: int, notes: Notes) -> Run:
    """The run with a target for a decoder of speech, where none is asked for: as much text as `length` inputs may say."""
    if run.target_len or not model.rate or model.kind != "seq2seq":
        return run
    tokens = max(1, SPOKEN * length // model.rate)
    notes.assume("target_len", "default", f"{tokens} tokens of text, {SPOKEN} to a second of sound")
    return replace(run, target_len=tokens)


def _text(run: Run, model: Model, notes: Notes) -> int:
    """Tokens of text a denoiser is given: as asked, else what its pipeline gives it; none where it reads no text."""
    notes.assume("model", "input", _input(model))
    notes.assume("model", "loss", "the mean squared error of the output against a target of its size")
    if run.seq_len is None and model.text:
        notes.assume("seq_len", "default", f"text of {model.text} tokens, as the model's pipeline cuts and pads it")
    return run.seq_len or model.text


def _input(model: Model) -> str:
    """What one image or latent is."""
    if not model.image:
        raise RunInvalid([Fault("model", "its config says nothing of the size of its images or latents: say it "
                                         "(image_size: 512), or name a preset")])  # fmt: skip
    what = "images" if model.image[0] == COLOURS else "latents" if model.kind == "diffusion" else "inputs"
    return f"{what} of {' x '.join(map(str, model.image))}"
