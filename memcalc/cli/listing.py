"""What the listing commands share: filter presets by a word, show one by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.errors import UnknownName
from memcalc.presets import find, index, names

if TYPE_CHECKING:
    from memcalc.presets import Kind


def matching(kind: Kind, words: list[str], command: str) -> list[dict[str, Any]]:
    """The presets whose id, aliases or folder hold every word; UnknownName with the nearest where none does."""
    known = index().get(kind, {})
    found = [name for name in names(kind) if all(_says(name, kind, word) for word in words)]
    if not found:
        raise UnknownName(kind.removesuffix("s"), " ".join(words), known, command)
    return [find(kind, name) for name in found]


def _says(name: str, kind: Kind, word: str) -> bool:
    wanted = word.lower()
    entries = index()[kind]
    path = entries[name.lower()]
    return wanted in path.lower() or any(wanted in alias for alias, target in entries.items() if target == path)
