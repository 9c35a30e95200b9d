"""Whose modules run, for frameworks that have their own: as they are, or compiled (presets/implementations)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.configs.words import truth
from memcalc.errors import MemcalcError
from memcalc.models import load_model
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet


def put_modules(sheet: Sheet, library: str, *compiles: str) -> bool:
    """Set `implementation` where the library's modules are known for the model; whether the layers are compiled.

    `compiles` are the keys that switch torch.compile on. Where they are not known, Hugging Face's stand for them.
    """
    compiled = bool(sheet.read(_switched, *compiles, default=False))
    name = f"{library}-compiled" if compiled else library
    if architecture(sheet) in find("implementations", name)["models"]:
        sheet.put("implementation", name, *((sheet.named(*compiles),) if compiled else ()),
                  default=f"presets/implementations/{name}.yaml")  # fmt: skip
        return compiled
    sheet.assume(
        "implementation", "modules", f"Hugging Face's modules stand for {library}'s, which keep about the same"
    )
    if compiled:
        sheet.warn(
            sheet.named(*compiles),
            "not-modelled",
            "torch.compile fuses what the tape keeps apart: less memory than is shown",
        )
    return False


def _switched(value: Any) -> bool:  # noqa: ANN401 - what stands in a config
    """A switch, or a mapping of what is compiled, the model unless it says otherwise (torchtune)."""
    return truth(value.get("model", True) if isinstance(value, dict) else value)


def architecture(sheet: Sheet) -> str:
    """The architecture of the model, '' where it is not known."""
    spec = sheet.run.get("model", sheet.asked.model)
    try:
        return load_model(spec).architecture if spec is not None else ""
    except MemcalcError:
        return ""
