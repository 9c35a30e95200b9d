"""What the listing commands share: filter presets by words, show one by its name."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from memcalc.errors import UnknownName
from memcalc.presets import SINGULAR, find, index, names

if TYPE_CHECKING:
    from memcalc.presets import Kind

_SEARCHED = ("id", "title", "vendor", "arch", "architecture", "library", "class")


def matching(kind: Kind, words: list[str], command: str) -> list[dict[str, Any]]:
    """The presets that say every word in their id, aliases, folder or main fields; UnknownName where none does."""
    found = some(kind, tuple(words))
    if not found:
        raise UnknownName(SINGULAR[kind], " ".join(words), index().get(kind, {}), command)
    return found


@lru_cache(maxsize=1)
def some(kind: Kind, words: tuple[str, ...]) -> list[dict[str, Any]]:
    """The presets that say every word, none where none does; every card is read for it, once."""
    paths = {path.rpartition("/")[2].removesuffix(".yaml"): path for path in index().get(kind, {}).values()}
    cards = [find(kind, name) for name in names(kind)]
    return [card for card in cards if all(word.lower() in _said(card, paths[card["id"]]) for word in words)]


def _said(card: dict[str, Any], path: str) -> str:
    return " ".join([path, *map(str, card.get("aliases", [])), *(str(card.get(key, "")) for key in _SEARCHED)]).lower()
