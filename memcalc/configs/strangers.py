"""Files that lie beside configs and are none (presets/frameworks/strangers.yaml): one message says what each is, and what to give.

One is read after all: Weights & Biases' export of a config, whose every value has a description beside it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.errors import Fault, MemcalcError, RunInvalid, UnreadableInput, shorten
from memcalc.presets import find

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.configs.documents import Document

_SHOWN: Final = 20_000  # characters that are looked at
_FRONT: Final = re.compile(r"\A---\s*\n(.{0,20000}?)\n---\s*(?:\n|\Z)", re.DOTALL)
_BASE: Final = re.compile(r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([\w./-]{1,200})", re.MULTILINE)


def refuse_name(path: Path) -> None:
    """Raise UnreadableInput where a file's name alone says that it holds no config: pickles, texts, tables of data."""
    kind = _named(path.name)
    if kind is not None and not {"keys", "text"} & kind.keys() and path.name != "model_index.json" and path.is_file():
        raise UnreadableInput(_said(kind, str(path), path))


def refuse(document: Document) -> None:
    """Raise a MemcalcError that says what a document is and what to give, where it is of a known kind."""
    kind = next((one for one in find("frameworks", "strangers")["kinds"] if _fits(one, document)), None)
    if kind is not None:
        raise _error(document, _card(document) or _said(kind, document.source, document.path))


def is_pipeline(document: Document) -> bool:
    """Whether a document is the index of a diffusers pipeline, which looks like the config of a model."""
    return "_diffusers_version" in document.data and str(document.data.get("_class_name", "")).endswith("Pipeline")


def unwrapped(document: Document) -> Document:
    """Weights & Biases' export of a config with its values alone; any other document as it is."""
    if not ({"_wandb", "wandb_version"} & document.data.keys()):
        return document
    held = {key: value["value"] for key, value in document.data.items() if isinstance(value, dict) and "value" in value}
    return replace(document, data={key: value for key, value in held.items() if key != "_wandb"})


def _named(name: str) -> dict[str, Any] | None:
    kinds = find("frameworks", "strangers")["kinds"]
    return next((one for one in kinds if re.fullmatch(one.get("names", "(?!)"), name, re.IGNORECASE)), None)


def _fits(kind: dict[str, Any], document: Document) -> bool:
    if document.path is not None and re.fullmatch(kind.get("names", "(?!)"), document.path.name, re.IGNORECASE):
        return True
    if document.data:
        held = any(all(key in document.data for key in keys) for keys in kind.get("keys", ()))
        return held and not any(key in document.data for key in kind.get("without", ()))
    return "text" in kind and re.search(f"^{kind['text']}", document.text[:_SHOWN], re.MULTILINE) is not None


def _said(kind: dict[str, Any], source: str, path: Path | None) -> str:
    folder = str(path.parent) if path is not None else "FOLDER"
    return f"{source} is {kind['is']}: {' '.join(kind['instead'].split()).replace('{folder}', folder)}"


def _error(document: Document, what: str) -> MemcalcError:
    """Unreadable where it holds no mapping; else a config that can't be right."""
    if not document.data:
        return UnreadableInput(what)
    return RunInvalid([Fault("", what.removeprefix(f"{document.source} is ").join(("it is ", "")))], document.source)


def _card(document: Document) -> str:
    """What to say of a model card, by the YAML before its text; '' where it has none."""
    front = _FRONT.match(document.text[:_SHOWN])
    if front is None:
        return ""
    base = _BASE.search(front[1])
    hint = f"the model it names is {shorten(base[1])}: memcalc estimate {base[1]}" if base else "it names no base_model"
    return f"{document.source} is a model card, which does not say how the model is trained; {hint}, or give the trainer's config"
