"""A Rule: which module names carry an adapter, and of what rank, as peft matches them (peft, tuners/tuners_utils.py)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import chosen, crosses, is_word
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.adapters.sites import Module

_ANY_LAYER = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


@dataclass(frozen=True, slots=True)
class Rule:
    """A name belongs to it if it ends in one of `names`, matches `pattern` as a whole, or with `everything`.

    `exclude` and `saved` (trained as full copies) take names out again; `layers` keeps endings to these numbered
    layers. `ranks` maps regular expressions to ranks: the first that matches counts, `rank` where none does.
    """

    names: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    everything: bool = False
    exclude: tuple[str, ...] | re.Pattern[str] = ()
    saved: tuple[str, ...] = ()
    layers: frozenset[int] = frozenset()
    layers_patterns: tuple[str, ...] = ()
    rank: int = 0
    ranks: tuple[tuple[str, int], ...] = ()

    def chooses(self, name: str) -> bool:
        """Whether one module belongs to it (check_target_module_exists)."""
        if self.excludes(name):
            return False
        if self.pattern is not None:
            return self.pattern.fullmatch(name) is not None
        if self.everything or name in self.names:
            return True
        return name.endswith(tuple(f".{ending}" for ending in self.names)) and self._in_layers(name)

    def excludes(self, name: str) -> bool:
        """Whether one module is left out, or trained as a whole."""
        if isinstance(self.exclude, re.Pattern):
            out = self.exclude.fullmatch(name) is not None
        else:
            out = name in self.exclude or name.endswith(tuple(f".{ending}" for ending in self.exclude))
        return out or any(re.match(rf"(^|.*\.){saved}($|\..*)", name) for saved in self.saved)

    def rank_of(self, name: str) -> int:
        """The rank for a module or parameter (get_pattern_key)."""
        return next((rank for key, rank in self.ranks if re.match(rf"(.*\.)?({key})$", name)), self.rank)

    def choice(self, name: str) -> int | None:
        """The rank where it belongs to the rule, else None."""
        return self.rank_of(name) if self.chooses(name) else None

    def uniform(self, pattern: str) -> bool:
        """Whether all names of a pattern fare alike, so that a look at one of them decides."""
        if "{" not in pattern:
            return True
        if self.pattern or self.layers or isinstance(self.exclude, re.Pattern):
            return False
        words = (*self.saved, *(key for key, _ in self.ranks))
        endings = (*self.names, *self.exclude, *words)
        return all(map(is_word, words)) and not any(crosses(pattern, f".{ending}") for ending in endings)

    def select(self, module: Module) -> tuple[tuple[str, int, int], ...]:
        """(pattern, count, rank) of those of like modules that belong to it."""
        return chosen(module.name, module.count, self.choice, alike=self.uniform(module.name))

    def _in_layers(self, name: str) -> bool:
        if not self.layers:
            return True
        index = layer_of(name, self.layers_patterns)
        return index is not None and index in self.layers


def layer_of(name: str, patterns: tuple[str, ...] = ()) -> int | None:
    """The number of the layer a module is in: the first number after a dotted part, or after one of the patterns."""
    if not patterns:
        found = _ANY_LAYER.match(name)
    else:
        matches = (re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", name) for pattern in patterns)
        found = next(filter(None, matches), None)
    return int(found["index"]) if found else None
