"""litgpt's models, by the table presets/frameworks/litgpt.yaml: names, its own dimensions, where its adapters go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.documents import open_document
from memcalc.configs.follow import find as find_file
from memcalc.configs.names import known, unknown
from memcalc.configs.words import truth
from memcalc.errors import MemcalcError
from memcalc.models import load_model
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

_SIZES: Final = ("n_layer", "n_embd", "n_head", "n_query_groups", "head_size", "intermediate_size", "vocab_size",
                 "padded_vocab_size", "padding_multiple", "block_size")  # fmt: skip
_SIDES: Final = {"query": True, "key": False, "value": True, "projection": False, "mlp": False, "head": False}


def model_of(sheet: Sheet, *, tied: bool) -> None:
    """Set `model`: dimensions written in the file, a folder's model_config.yaml, a name of litgpt's or of the hub's."""
    keys = ("model_config", "checkpoint_dir", "model_name")
    sheet.seen(*keys)
    if sheet.asked.model is not None:
        return
    inline = sheet.get("model_config")
    if isinstance(inline, dict) and (wrong := next((k for k in _SIZES if not _is_size(inline.get(k, 1))), None)):
        sheet.fault(f"model_config.{wrong}", f"{inline[wrong]!r} is no whole number above 0")
        return
    folder, name = str(sheet.get("checkpoint_dir") or ""), str(sheet.get("model_name") or "")
    found: Any = _dimensions(inline, tied=tied) if isinstance(inline, dict) and inline else None
    found = found or _from_folder(sheet, folder, tied=tied) or _named(sheet, name or folder, tied=tied)
    if found is None:
        sheet.fault(sheet.named("model_name", "checkpoint_dir"), unknown(name or folder))
    else:
        sheet.put("model", found, *(key for key in keys if sheet.has(key)))


def _is_size(value: Any) -> bool:  # noqa: ANN401 - whatever is written
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _named(sheet: Sheet, name: str, *, tied: bool) -> Any:  # noqa: ANN401 - a preset's name, or dimensions
    """By the hub's name (the last two folders of a path), else by litgpt's."""
    steps = [step for step in name.replace("\\", "/").split("/") if step]
    row = find("frameworks", "litgpt")["models"].get(steps[-1] if steps else "")
    if isinstance(row, dict):
        return _dimensions(row, tied=tied)
    found = known(sheet, "/".join(steps[-2:])) if len(steps) > 1 else None
    found = found or row or (known(sheet, steps[-1]) if steps else None)
    return _untied(found) if found and not tied else found


def _untied(name: str) -> Any:  # noqa: ANN401 - a name, or a preset with a change
    """litgpt has a head of its own beside the embedding, though the checkpoint has one tensor for both."""
    try:
        model = load_model(name)
    except MemcalcError:
        return name
    return {"preset": name, "tie_word_embeddings": False} if any(tensor.tied_to for tensor in model.tensors) else name


def _from_folder(sheet: Sheet, folder: str, *, tied: bool) -> dict[str, Any] | None:
    """The dimensions of a downloaded checkpoint, where its folder is there."""
    path = find_file(sheet.document, f"{folder}/model_config.yaml") if folder else None
    return _dimensions(open_document(path).data, tied=tied) if path else None


def _dimensions(config: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """A litgpt.Config as the keys of a config.json, of the architecture whose layers have its shapes."""
    table = find("frameworks", "litgpt")
    full = {**table["defaults"], **{key: value for key, value in config.items() if value is not None}}
    full.setdefault("n_query_groups", full["n_head"])
    full.setdefault("head_size", full["n_embd"] // full["n_head"])
    full.setdefault("intermediate_size", 4 * full["n_embd"])
    multiple = full["padding_multiple"]
    full.setdefault("padded_vocab_size", -(-full["vocab_size"] // multiple) * multiple)
    made = {ours: full[theirs] for theirs, ours in table["fields"].items() if full.get(theirs) not in (None, 0)}
    architecture = table["classes"].get(str(full["mlp_class_name"]), "llama")
    return {"model_type": architecture, **made, "tie_word_embeddings": tied}


def targets(sheet: Sheet) -> list[str]:
    """The modules that lora_query … lora_head mean for the model's architecture."""
    table = find("frameworks", "litgpt")["modules"]
    names = table.get(_architecture(sheet), table["other"])
    on = [side for side, default in _SIDES.items() if sheet.read(truth, f"lora_{side}", default=default)]
    return list(dict.fromkeys(module for side in on for module in names[side]))


def fused(sheet: Sheet) -> bool:
    """Whether the architecture has one projection for q, k and v, and adapters on some of them."""
    table = find("frameworks", "litgpt")["modules"]
    names = table.get(_architecture(sheet), table["other"])
    return bool(names["query"] == names["key"] and set(names["query"]) & set(targets(sheet)))


def _architecture(sheet: Sheet) -> str:
    spec = sheet.run.get("model", sheet.asked.model)
    try:
        return load_model(spec).architecture if spec else ""
    except MemcalcError:
        return ""
