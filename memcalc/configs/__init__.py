"""Configs of other tools, read into the vocabulary of a run: one small module per format.

A format's module has NAME, TITLE, `recognises(document) -> int` (0: no; else how surely, by keys that only this format
has) and `read(document, asked) -> Reading`. Modules are imported when a file asks for them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.reading import Asked, Origin, Reading
from memcalc.configs.words import Unfit
from memcalc.errors import Fault, RunInvalid, UsageError, nearest_names, shorten
from memcalc.run import keys

if TYPE_CHECKING:
    from memcalc.configs.documents import Document

__all__ = ["FORMATS", "Asked", "Origin", "Reading", "detect", "formats", "is_foreign", "module_of", "read"]

# format -> module below memcalc.configs
FORMATS: Final[dict[str, str]] = {
    "hf-config": "hf_config",
    "peft": "peft",
    "deepspeed": "deepspeed",
    "accelerate": "accelerate",
    "trl": "trl",
    "training-arguments": "training_arguments",
    "hf-quant-config": "hf_quant_config",
    "axolotl": "axolotl",
    "llamafactory": "llamafactory",
    "torchtune": "torchtune",
    "torchtitan": "torchtitan",
    "litgpt": "litgpt",
    "llm-foundry": "llm_foundry",
    "megatron": "megatron",
    "nemo": "nemo",
    "gpt-neox": "gpt_neox",
    "maxtext": "maxtext",
    "maxtext-model": "maxtext_model",
    "llm-analysis-model": "llm_analysis_model",
    "ms-swift": "ms_swift",
    "openrlhf": "openrlhf",
    "verl": "verl",
    "kohya": "kohya",
    "musubi": "musubi",
    "diffusers": "diffusers",
    "ai-toolkit": "ai_toolkit",
    "onetrainer": "onetrainer",
    "simpletuner": "simpletuner",
    "lightning": "lightning",
    "launch": "launch",
    "python": "python_code",
}
# other spellings of --from
_ALIASES: Final[dict[str, str]] = {
    "hf": "hf-config", "config.json": "hf-config", "transformers": "training-arguments", "trainer": "training-arguments",
    "adapter-config": "peft", "peft-adapter": "peft", "llama-factory": "llamafactory", "neox": "gpt-neox",
    "megatron-lm": "megatron", "megatron-yaml": "megatron", "lit-gpt": "litgpt", "llmfoundry": "llm-foundry",
    "composer": "llm-foundry", "swift": "ms-swift", "sd-scripts": "kohya", "kohya-ss": "kohya", "musubi-tuner": "musubi",
    "aitoolkit": "ai-toolkit", "one-trainer": "onetrainer", "script": "launch",
}  # fmt: skip


def is_foreign(document: Document) -> bool:
    """Whether a document may be another tool's: it has keys that a run file has not."""
    return not document.data or any(key not in keys() for key in document.data)


def detect(document: Document) -> str:
    """The format that a document is surest of; '' where none recognises it."""
    surest = max(((module_of(name).recognises(document), -place, name) for place, name in enumerate(formats())),
                 default=(0, 0, ""))  # fmt: skip
    return surest[2] if surest[0] > 0 else ""


def read(document: Document, form: str = "", asked: Asked | None = None) -> Reading | None:
    """The reading of a document in the format `form`, or in the one it is recognised as; None where it is none.

    RunInvalid lists what can't be right, each with its place; UsageError where there is no such format.
    """
    name = format_name(form) if form else detect(document)
    if not name:
        return None
    if form and not document.data and document.unreadable and not getattr(module_of(name), "TEXT", False):
        raise document.unreadable
    try:
        reading: Reading = module_of(name).read(document, asked or Asked())
    except Unfit as error:  # met where the key was already lost
        raise RunInvalid([Fault("", str(error))], document.source) from error
    return reading


def format_name(form: str) -> str:
    """The format of that name or alias; UsageError names the nearest."""
    word = form.strip().lower().replace("_", "-")
    name = _ALIASES.get(word, word)
    if name not in formats():
        near = nearest_names(name, [*formats(), *_ALIASES])
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--from {shorten(form)}: no such format; {hint}there are {', '.join(formats())}")
    return name


def module_of(name: str) -> Any:  # noqa: ANN401 - a module with the functions above
    """The module of a format."""
    return import_module(f"memcalc.configs.{FORMATS[name]}")


def formats() -> list[str]:
    """The names of all formats, in the order they are tried."""
    return [name for name, module in FORMATS.items() if find_spec(f"memcalc.configs.{module}")]
