"""The model that a config names, as a run's `model`: what was asked for, a preset, a folder, the hub's local cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.errors import Fault, nearest_names, shorten
from memcalc.models import is_model_name
from memcalc.models.hub_cache import is_repository
from memcalc.models.names import CONFIG, LONGEST, contained, elsewhere, packing
from memcalc.paths import is_dir, is_file
from memcalc.presets import index

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet


def model(sheet: Sheet, *keys: str, required: bool = True) -> Any:  # noqa: ANN401 - a name, or None
    """Set `model` from what was asked for, or from the first of `keys`; the value that was set.

    A fault where a name is known nowhere offline, or where nothing names a model and `required` is set.
    """
    written = sheet.get(*keys) if keys else None
    if sheet.asked.model is not None:
        return sheet.asked.model
    if written is None:
        if required:
            sheet.faults.append(Fault("model", missing(sheet.title)))
        return None
    found = known(sheet, str(written).strip())
    if found is None:
        sheet.fault(sheet.named(*keys), unknown(str(written)))
        return None
    sheet.put("model", found, *keys)
    sheet.packed = (_stored(found) or packing(str(written)), sheet.named(*keys))
    return found


def _stored(found: Any) -> dict[str, Any] | None:  # noqa: ANN401 - what a run's `model` says
    """How the config of a folder, a file or a fetched repository says its weights are packed; None where it does not."""
    from memcalc.quantization.foreign import from_config  # noqa: PLC0415 - few models are packed

    config = found if isinstance(found, dict) else _config_of(str(found))
    section = config.get("quantization_config")
    return from_config(section) if isinstance(section, dict) else None


def _config_of(name: str) -> dict[str, Any]:
    """The config.json that a path means; {} for a preset's name."""
    if is_model_name(name):
        return {}
    file = Path(name) / CONFIG if is_dir(Path(name)) else Path(name)
    return open_document(file).data if file.suffix == ".json" and is_file(file) else {}


def companion(sheet: Sheet, *keys: str) -> Any:  # noqa: ANN401 - a name, a path or dimensions
    """What a companion's `model` should say for the name at `keys`: "same", the policy's, with a warning, if it is unknown."""
    name = str(sheet.get(*keys) or "")
    found = known(sheet, name) if name else None
    if found is None:
        sheet.warn(sheet.named(*keys), "unknown-model", f"no preset has the dimensions of {name or 'the model'!r}: those of the "
                   "policy are counted")  # fmt: skip
    return found or "same"


def missing(title: str) -> str:
    """What to say where a format names no model."""
    return (
        f"{title} files name no model; say which: --model llama-2-7b (a preset, a config.json or a checkpoint folder)"
    )


def unknown(name: str) -> str:
    """What to say of a hub's name that no preset, folder or cache knows."""
    near = nearest_names(name.rpartition("/")[2], index()["models"])
    hint = f" (the nearest presets: {', '.join(near)})" if near else ""
    return (f"no preset has the dimensions of {shorten(name)!r}{hint}; name one with --model, or a config.json or a "
            "checkpoint folder; --hub fetches its config.json")  # fmt: skip


def known(sheet: Sheet, name: str) -> Any:  # noqa: ANN401 - a name, a path or dimensions
    """What a run's `model` should say for a name: a preset, a folder or file, a cached repository; None if unknown."""
    if len(name) > LONGEST:
        return None
    if is_model_name(name):
        return name
    local = find(sheet.document, name)
    if local is not None and (is_file(local) or is_file(local / CONFIG)):
        return str(local)
    other = elsewhere(name)
    if other is not None:
        sheet.assume("model", "read-as", other[1])
        return other[0]
    if sheet.asked.hub and is_repository(name):
        from memcalc.configs.hub import fetched  # noqa: PLC0415 - only where it was asked for

        return fetched(name)
    within = contained(name)
    if within is not None:
        sheet.warn("model", "read-as", f"{shorten(name)} is taken to be a {within}, whose name is part of its own; tokens "
                   "that were added to it are not counted (--model or --hub says otherwise)")  # fmt: skip
    return within
