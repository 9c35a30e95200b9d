"""Files of the hub over HTTP, through huggingface_hub (the extra `hub`): bounded in time and in size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.errors import UnreadableInput

if TYPE_CHECKING:
    from pathlib import Path


def fetched(name: str) -> Path:
    """The folder with what describes a repository's model, fetched; UnreadableInput where it can't be had."""
    raise UnreadableInput(f"{name}: fetching is not possible yet")
