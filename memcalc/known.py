"""What has been found in this process and may be asked for again: recorded steps, their timelines, ledgers.

Another GPU, another margin, a budget: the step is the same. What is kept is frozen, and so is what it is found by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

FoundT = TypeVar("FoundT")
MOST = 128  # of a kind: those asked for last; a recorded step takes 0.02 to 1 MB


class Key:
    """A key that is hashed once, however often it is looked up."""

    __slots__ = ("hashed", "value")

    def __init__(self, value: Hashable) -> None:
        self.value, self.hashed = value, hash(value)

    def __hash__(self) -> int:
        return self.hashed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.value == other.value


class Known(Generic[FoundT]):
    """Values by their keys. What a key tells apart by identity is kept `alive` beside the value."""

    every: list[Known[Any]] = []  # noqa: RUF012 - one list for all

    def __init__(self) -> None:
        self._found: dict[Key, tuple[FoundT, object]] = {}
        self.every.append(self)

    def __len__(self) -> int:
        """How many values there are."""
        return len(self._found)

    def get(self, key: Hashable, alive: object, make: Callable[[], FoundT]) -> FoundT:
        """The value of a key, made if it is not there."""
        try:
            hashed = Key(key)
        except TypeError:  # something in it can't be hashed
            return make()
        found = self._found.pop(hashed, None)
        if found is None:
            found = make(), alive
            if len(self._found) >= MOST:
                del self._found[next(iter(self._found))]
        self._found[hashed] = found
        return found[0]


def forget() -> None:
    """As if nothing had been found yet."""
    for known in Known.every:
        known._found.clear()  # noqa: SLF001 - its own
