"""Find the model a run names: a preset, a config.json, a checkpoint folder, a bare size, or dimensions written inline."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.architectures import build, type_of_class
from memcalc.errors import UnknownName, UnreadableInput, fault
from memcalc.paths import exists, expanded, is_dir
from memcalc.presets import find, has, index
from memcalc.units import parse_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.model import Model

NOMINAL = (
    "a bare size has no dimensions: its parameters are counted as 4096 x 4096 matrices; only what persists is known"
)
_SIZE = re.compile(r"[0-9][0-9_]*\.?[0-9]*\s*(k|m|b|t|e[0-9]+)", re.IGNORECASE)


def load_model(spec: str | Mapping[str, Any], beside: Path | None = None) -> Model:
    """The model of a run's `model`; `beside` is the folder that relative paths start from.

    UnknownName where no preset, file or size is meant; RunInvalid where dimensions do not make a model.
    """
    if not isinstance(spec, str):
        return from_mapping(spec)
    name = spec.strip()
    if has("models", name):
        return from_preset(name)
    if _SIZE.fullmatch(name):
        return _nominal(name)
    path = (beside / name) if beside else Path(name)
    if exists(path) or name.endswith((".json", ".yaml", ".yml")) or name.startswith((".", "/", "~")):
        return from_file(expanded(path))
    from memcalc.models.names import elsewhere, listing  # noqa: PLC0415 - only for names that are no presets

    found = elsewhere(name)
    if found is not None:
        made = load_model(found[0])
        return replace(made, notes=(*made.notes, found[1]))
    raise UnknownName("model", name, index()["models"], listing(name))


@lru_cache(maxsize=512)
def from_preset(name: str) -> Model:
    """The model of a preset id or alias, built once."""
    card = find("models", name)
    if "tensors" in card or "blocks" in card:
        from memcalc.architectures.inline import inline  # noqa: PLC0415 - few models are written so

        kept = {k: card[k] for k in ("blocks", "tensors") if k in card}
        return replace(inline(kept), name=card["id"], architecture=str(card.get("architecture", "")))
    model = build(card["architecture"], card["dimensions"], f"the preset {card['id']}")
    return model.called(card["id"], card["architecture"])


def from_mapping(given: Mapping[str, Any], name: str = "inline", source: str = "the model") -> Model:
    """The model of inline dimensions: blocks, tensors, or the keys of a config.json.

    `preset` in place of `model_type` starts from a preset's dimensions and changes those given.
    """
    if "blocks" in given or "tensors" in given:
        from memcalc.architectures.inline import inline  # noqa: PLC0415

        return replace(inline(given), name=str(given.get("name", name)))
    if "preset" in given:
        card = find("models", str(given["preset"]))
        changes = {k: v for k, v in given.items() if k != "preset"}
        return _built(card["architecture"], {**card["dimensions"], **changes}, f"{card['id']} (changed)", source)
    return _built(_type_of(given), given, str(given.get("_name_or_path") or name), source)


def from_file(path: Path) -> Model:
    """The model of a config.json, or of the one in a checkpoint folder."""
    from memcalc.reading import parse_document, read_text  # noqa: PLC0415 - only for files

    file = path / "config.json" if is_dir(path) else path
    if is_dir(path) and not exists(file):
        raise UnreadableInput(f"{path} is a folder without a config.json; name the file that holds the dimensions")
    document = parse_document(read_text(str(file)), str(file))
    return from_mapping(document.data, path.stem if path.suffix else path.name, str(file))


def _built(model_type: str, given: Mapping[str, Any], name: str, source: str) -> Model:
    return build(model_type, given, source).called(name, model_type)


def _type_of(given: Mapping[str, Any]) -> str:
    """The model type of a config: `model_type`, diffusers' `_class_name`, or the class under `architectures`."""
    written = given.get("model_type") or given.get("_class_name")
    if written and has("architectures", str(written)):
        return str(written)
    classes = given.get("architectures")
    found = type_of_class(str(classes[0])) if isinstance(classes, list) and classes else None
    if found or written:
        return str(found or written)  # a name of somebody's own for a class that is known
    raise fault(
        "model.model_type",
        "missing: say which architecture the dimensions are for (list them with: memcalc models --architectures), "
        "or describe the model inline with blocks or tensors",
    )


def _nominal(text: str) -> Model:
    from memcalc.architectures.inline import nominal  # noqa: PLC0415

    try:
        return replace(nominal(parse_count(text)), name=text.lower(), notes=(NOMINAL,))
    except ValueError as error:
        raise fault("model", str(error)) from error


def is_model_name(text: str) -> bool:
    """Whether a word names a model without a file: a preset, an alias or a bare size."""
    return has("models", text) or bool(_SIZE.fullmatch(text.strip()))
