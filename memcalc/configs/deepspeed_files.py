"""DeepSpeed configs that a trainer's config names: the file, one that a framework ships, or what its name says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import find, follow
from memcalc.errors import UnreadableInput
from memcalc.presets import find as find_preset

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.table import Sheet

AUTO: Final = "auto"  # a value that the trainer fills in
_STAGE: Final = re.compile(r"z(?:e?ro)?(?:[_-]?stage)?[_-]?([0-3])(?![0-9])")


def followed(sheet: Sheet, key: str, name: str) -> Document:
    """The file that is named; where it is not there, what its name says (zero3_bf16_cpuoffload_all.json)."""
    try:
        return follow(sheet.document, name)
    except UnreadableInput as error:
        said = _shipped(name)
        if said is not None and find(sheet.document, name) is None:
            sheet.assume(key, "shipped", f"{name} is not here; read as the file of that name that the framework ships")
            return sheet.document.part(key, said)
        said = _by_its_name(name)
        if find(sheet.document, name) is not None or (said is None and "sharding" not in sheet.asked.flags):
            raise sheet.refuse(key, f"{error}; put it there, or say --sharding zero3") from error
        sheet.warn(key, "not-found", f"{error}: its name is taken to say what is in it")
        return sheet.document.part(key, said or {})


def _shipped(name: str) -> dict[str, Any] | None:
    """What a trainer's own config of that path, or of the end of it, holds; None where no framework ships one."""
    word = name.replace("\\", "/").removeprefix("./")
    files = find_preset("frameworks", "deepspeed-configs")["files"]
    held = next((found for path, found in files.items() if word == path or word.endswith(f"/{path}")), None)
    auto = {"bf16": {"enabled": AUTO}, "fp16": {"enabled": AUTO}, "train_micro_batch_size_per_gpu": AUTO}
    return None if held is None else {**auto, **held}


def _by_its_name(name: str) -> dict[str, Any] | None:
    """The sections that a file of that name is taken to hold; None where the name says no stage of ZeRO."""
    word = name.replace("\\", "/").rpartition("/")[2].lower()
    stage = _STAGE.search(word)
    if stage is None:
        return None
    made: dict[str, Any] = {"stage": int(stage[1])}
    if "offload" in word:
        made["offload_optimizer"] = {"device": "cpu"}
        if "param" in word or "all" in word:
            made["offload_param"] = {"device": "cpu"}
        if "param" in word and "all" not in word:
            del made["offload_optimizer"]
    return {"zero_optimization": made, "bf16": {"enabled": AUTO}, "fp16": {"enabled": AUTO},
            "train_micro_batch_size_per_gpu": AUTO}  # fmt: skip
