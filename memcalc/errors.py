"""One tree of errors; each class owns its exit code, each message says what, where, the nearest valid thing, the fix.

| exit | class | meaning |
|---|---|---|
| 1 | (no error) | answered, and the answer is no |
| 2 | UsageError, UnknownName | wrong usage: flag, command, unknown preset |
| 3 | RunInvalid | invalid run or config; all faults at once, each with its place |
| 4 | UnreadableInput | input that can't be read |
| 70 | anything else | a bug of memcalc |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_KEYS = {"model": "model", "GPU": "gpu", "optimizer": "optimizer", "precision recipe": "precision",
         "quantisation": "quantize", "implementation": "implementation"}  # fmt: skip # kinds of names -> keys of a run
_FAMILY = 5  # letters and digits that tell a family of names
_LONGEST = 100  # characters of several values that are worth repeating


class MemcalcError(Exception):
    """Whatever memcalc says no to; the message is complete and meant for the user."""

    exit_code = 70


class UsageError(MemcalcError):
    """A flag, a command or a combination of them that memcalc does not have."""

    exit_code = 2


class UnknownName(UsageError):  # noqa: N818 - reads as the sentence it prints
    """A preset that does not exist; carries the nearest names and where to list them."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str) -> None:
        self.kind, self.name, self.nearest = kind, name, nearest_names(name, known)
        hint = f" Did you mean {_either(self.nearest)}?" if self.nearest else ""
        more = several(_KEYS.get(kind, ""), name)
        super().__init__(f"unknown {kind} {shorten(name)!r}.{more or f'{hint} List them with: {listing}'}")


class UnreadableInput(MemcalcError):  # noqa: N818
    """A file or stream that can't be read: missing, a directory, no permission, too large, not text, not YAML."""

    exit_code = 4


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a run or config: where (`lora.rank`, `train.yaml:7 lora.rank`) and what, with its fix."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class RunInvalid(MemcalcError, ValueError):  # noqa: N818
    """A run or a config that is understood and wrong; `faults` lists every fault with its place."""

    exit_code = 3

    def __init__(self, faults: Sequence[Fault], source: str = "the run") -> None:
        self.faults, self.source = tuple(faults), source
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  {fault}" for fault in faults)]))

    def placed(self, place: Callable[[str], str], source: str) -> RunInvalid:
        """The same faults, each at the place that `place` finds for its key in the file `source`."""
        return RunInvalid([Fault(place(fault.where), fault.what) for fault in self.faults], source)


def fault(where: str, what: str) -> RunInvalid:
    """A RunInvalid of a single fault."""
    return RunInvalid([Fault(where, what)])


def nearest_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` of the `known` names that read like `name`: of its family (gemma4, gemma-4-31b) first, then the nearest."""
    lower = {k.lower(): k for k in known}
    wanted = name.lower()[:100]
    family = _bare(wanted)
    kin = sorted((k for k in lower if len(family) >= _FAMILY and _bare(k).startswith(family)), key=len)
    within = sorted((k for k in lower if len(wanted) > 2 and wanted in k), key=len)
    return [lower[k] for k in dict.fromkeys([*kin, *_alike(wanted, lower, most, 0.6), *within])][:most]


def likely_name(name: str, known: Iterable[str]) -> str:
    """The one of the `known` names that `name` is most likely a misspelling of; '' where none is spelt so nearly."""
    return next(iter(_alike(name[:100], known, 1, 0.85)), "")


def _alike(wanted: str, known: Iterable[str], most: int, least: float) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    return get_close_matches(wanted, list(known), n=most, cutoff=least)


def _bare(name: str) -> str:
    """Letters and digits alone."""
    return "".join(filter(str.isalnum, name))


def several(key: str, text: str) -> str:
    """What to do about several values where one is wanted, " …", where a text reads so; else nothing."""
    values = text.split(",")
    if (
        not key
        or len(values) == 1
        or len(text) > _LONGEST
        or not all(value and value.strip("[{( )}]") == value for value in values)
    ):
        return ""
    return f" A run has one; to run each: memcalc compare --sweep {key}={text}"


def shorten(text: str, most: int = 80) -> str:
    """`text` as far as it is worth repeating in a message."""
    return text if len(text) <= most else f"{text[:most]}…"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
