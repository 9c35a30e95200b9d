"""A checkpoint folder: what its config.json, its weights' headers and its adapter_config.json say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.configs.reading import Origin, Reading

if TYPE_CHECKING:
    from pathlib import Path


def read_folder(folder: Path) -> Reading:
    """The model in a folder."""
    origin = Origin(str(folder / "config.json"))
    return Reading("hf-folder", "checkpoint folder", str(folder), {"model": str(folder)}, {"model": origin})
