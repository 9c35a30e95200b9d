"""A checkpoint as it is described by its small files: config.json, adapter_config.json, the headers of its weights.

What holds the files (a folder, the hub) is behind `Files`; nothing but what is named here is asked of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from memcalc.configs import peft
from memcalc.configs.documents import Document, document_of
from memcalc.configs.likeness import alike, is_known, unlike
from memcalc.configs.names import known, missing
from memcalc.configs.quantized import packed_base
from memcalc.configs.safetensors import INDEX, SINGLE, Entry, Weights, gathered, shards_of
from memcalc.configs.table import Sheet
from memcalc.errors import Fault, MemcalcError, RunInvalid, UnreadableInput
from memcalc.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcalc.configs.reading import Asked, Reading
    from memcalc.model import Model

NAME: Final = "hf-folder"
TITLE: Final = "checkpoint"
CONFIG, ADAPTER, QUANT = "config.json", "adapter_config.json", "hf_quant_config.json"
MOST_TENSORS: Final = 200_000


class Files(Protocol):
    """Where the files of a checkpoint are."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def text(self, file: str) -> str | None:
        """A small file's text; None where there is none of that name."""

    def path(self, file: str) -> Path | None:
        """Where a file is on this machine, if it is, so that what it refers to can be found."""

    def header(self, file: str) -> dict[str, Entry] | None:
        """The tensors of a safetensors file; None where there is none of that name."""

    def spec(self, config: dict[str, Any]) -> Any:  # noqa: ANN401
        """What a run's `model` should say of the checkpoint."""


def described(files: Files, asked: Asked) -> Reading:
    """The reading of a checkpoint; UnreadableInput where it holds neither a config nor an adapter."""
    config, adapter = _document(files, CONFIG), _document(files, ADAPTER)
    first = adapter or config
    if first is None:
        raise UnreadableInput(f"{files.name} holds no config.json; name the file that holds the dimensions")
    sheet = Sheet(first, asked, NAME, TITLE)
    if adapter is not None:
        _adapter(sheet, adapter, config, files)
    if config is not None:
        _base(Sheet(config, asked, NAME, TITLE), sheet, files)
    return sheet.reading(("*",))


def _document(files: Files, name: str) -> Document | None:
    text = files.text(name)
    return None if text is None else mapping_of(text, f"{files.name}/{name}", files.path(name))


def mapping_of(text: str, source: str, path: Path | None = None) -> Document:
    """The document of text that must hold a mapping; UnreadableInput where it holds none."""
    made = document_of(text, source, path)
    if made.unreadable is not None:
        raise made.unreadable
    return made


def _adapter(sheet: Sheet, adapter: Document, config: Document | None, files: Files) -> None:
    """What is trained, and, where the folder has no config, the model that the adapter names."""
    inner = Sheet(adapter, sheet.asked, NAME, TITLE)
    peft.adapter(inner)
    if config is None and sheet.asked.model is None:
        name = str(inner.get("base_model_name_or_path") or "")
        found = known(inner, name) if name else None
        if found is None:
            raise RunInvalid([Fault("model", missing("adapter folders"))], files.name)
        inner.put("model", found, "base_model_name_or_path")
    sheet.adopt(inner.reading(peft.IGNORED))


def _base(inner: Sheet, sheet: Sheet, files: Files) -> None:
    """The model of the config, how its weights are packed, and what their headers say."""
    weights = _weights(files)
    config = inner.document.data
    model, why = _model(config)
    near = alike(config) if model is None and weights is None and not is_known(config) else None
    if near is not None:
        model, why = _model(near[0])
        config = near[0]
        inner.warn("model_type", "read-as", f"the model type is not known: {near[1]}")
    if model is None and weights is None and not is_known(config):
        raise RunInvalid([Fault("model_type", unlike(config))], f"{files.name}/{CONFIG}")
    if model is None and weights is None:
        raise why or UnreadableInput(f"{files.name}/{CONFIG} does not describe a model")
    if model is None and weights is not None:
        inner.put("model", tensors_of(weights), "model_type")
        inner.warn("model_type", "no-architecture",
                   f"{why}; the tensors are those of its weights' headers: what runs on them is not known, and activations "
                   "are not counted")  # fmt: skip
    elif sheet.asked.model is None:
        inner.put("model", {**config, "_name_or_path": files.name} if near else files.spec(config), "model_type")
    packed_base(inner, _packing(files, inner.document.data), "lora" in sheet.run or "lora" in sheet.asked.flags)
    if weights is not None:
        _compared(inner, weights, model, "lora" in sheet.run or "lora" in sheet.asked.flags)
    sheet.adopt(inner.reading(("*",)))


def _packing(files: Files, config: dict[str, Any]) -> dict[str, Any]:
    """The quantisation section of the config, or modelopt's file beside it."""
    section = config.get("quantization_config")
    if isinstance(section, dict):
        return section
    beside = _document(files, QUANT)
    inner = beside.data.get("quantization") if beside else None
    return {"quant_method": "modelopt", **inner} if isinstance(inner, dict) else {}


def _model(config: dict[str, Any]) -> tuple[Model | None, MemcalcError | None]:
    from memcalc.models import from_mapping  # noqa: PLC0415 - presets are read for it

    try:
        return from_mapping(config), None
    except MemcalcError as error:
        return None, error


def _weights(files: Files) -> Weights | None:
    """The headers of all shards; None where the checkpoint has none in this format."""
    whole = files.header(SINGLE)
    if whole is not None:
        return Weights(whole)
    index = _document(files, INDEX)
    if index is None:
        return None

    def header(file: str) -> dict[str, Entry]:
        found = files.header(file)
        if found is None:
            raise UnreadableInput(f"{files.name}/{INDEX} names {file}, which is not there")
        return found

    return gathered(shards_of(index.data, f"{files.name}/{INDEX}"), header)


def _compared(sheet: Sheet, weights: Weights, model: Model | None, lora: bool) -> None:
    """Note what the weights are stored as; warn where they are not those of the config."""
    stored = f"{len(weights.tensors)} tensors, {format_bytes(weights.bytes, 'GiB')}"
    if weights.packed:
        sheet.assume("model", "stored", f"the weights are packed: {stored}")
        return
    sheet.assume("model", "stored", f"the weights are {stored}, most of it {weights.dtype or 'packed'}")
    if lora and weights.dtype in ("fp32", "fp16") and "precision" not in sheet.asked.flags:
        sheet.put(
            "precision.frozen",
            weights.dtype,
            default="the headers of the weights: the frozen base is loaded as it is stored",
        )
    if model is None:
        return
    surplus = weights.parameters - model.parameters
    if surplus and surplus not in _shared(model):
        held, made = format_count(weights.parameters), format_count(model.parameters)
        what = f"the weights have {held} parameters, the config makes {made}: {surplus:+,}"
        sheet.warn("model_type", "other-weights", what)


def _shared(model: Model) -> Iterator[int]:
    """Elements of the tensors that share others' memory, which some checkpoints hold twice."""
    tied = [t.elements * t.count for t in model.tensors if t.tied_to]
    yield from (*tied, sum(tied))


def tensors_of(weights: Weights) -> dict[str, Any]:
    """A model of the tensors of the headers, for an architecture that is not known."""
    return {"tensors": {name: list(entry.shape) or [1] for name, entry in list(weights.tensors.items())[:MOST_TENSORS]
                        if entry.elements}}  # fmt: skip
