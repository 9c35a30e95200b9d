"""The machinery that every reader uses: a sheet that is filled from a document, key by key, and remembers what was read.

A reader is a table of Keys, the framework's defaults with their source, and its traps:

    sheet = Sheet(document, asked, "axolotl", "Axolotl")
    sheet.fill(KEYS)                                          # straight from key to key
    sheet.put("checkpointing", "full", "gradient_checkpointing")
    return sheet.reading(ignored=IGNORED)

Whatever is neither read nor ignored is named in a warning: silence never means that a key was understood.
"""

from __future__ import annotations

import re
from dataclasses import field
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.reading import Asked, Origin, Reading, Remark
from memcalc.configs.words import same
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, likely_name, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcalc.configs.documents import Document

ABSENT: Final = object()
NAMED: Final = 12  # keys that one warning names
_VARIABLE: Final = re.compile(r"\$(\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)", re.ASCII)
_UNFILLED: Final = "; variables of the environment are not filled in here: write what it stands for"


@dataclass(frozen=True)
class Key:
    """`theirs` (dotted; several spellings, the first that is written wins) means `ours`, a path of the run.

    `convert` turns the value (ValueError: a fault at its place); a value of None is left out. `default` is what the
    framework does where the key is absent or null, and `source` where it says so.
    """

    theirs: str | tuple[str, ...]
    ours: str
    convert: Callable[[Any], Any] = same
    default: Any = ABSENT
    source: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every spelling of the foreign key."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclass
class Sheet:
    """A run that is being read from a document: values, their origins, what was noted, which keys were looked at.

    `packed` is how the model's name says its weights are stored, and the key of that name: adapters leave them so.
    """

    document: Document
    asked: Asked
    format: str
    title: str
    run: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    warnings: list[Remark] = field(default_factory=list)
    assumptions: list[Remark] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    packed: tuple[Any, str] = (None, "")
    _seen: set[str] = field(default_factory=set)

    def get(self, *keys: str, default: Any = None) -> Any:  # noqa: ANN401 - whatever is written
        """The value of the first of `keys` (dotted) that is written and not null, else `default`; all count as read."""
        self._seen.update(keys)
        found = (lookup(self.document.data, key) for key in keys)
        return next((value for value in found if value is not ABSENT and value is not None), default)

    def read(self, convert: Callable[[Any], Any], *keys: str, default: Any = None) -> Any:  # noqa: ANN401
        """What `convert` makes of the value of the first of `keys`; a fault at its place where it can't."""
        value = self.get(*keys)
        if value is None:
            return default
        try:
            return convert(value)
        except ValueError as error:
            self.fault(self.named(*keys), str(error))
            return default

    def has(self, *keys: str) -> bool:
        """Whether one of `keys` is written and not null; they do not count as read."""
        return any(lookup(self.document.data, key) not in (ABSENT, None) for key in keys)

    def named(self, *keys: str) -> str:
        """The first of `keys` that is written, else the first."""
        return next((key for key in keys if lookup(self.document.data, key) is not ABSENT), keys[0] if keys else "")

    def put(self, ours: str, value: Any, *theirs: str, default: str = "") -> None:  # noqa: ANN401
        """Set a dotted path of the run; `theirs` are the keys it follows from, `default` the source of a default."""
        place(self.run, ours, value)
        self.origins[ours] = self.origin(*theirs, default=default)

    def origin(self, *theirs: str, default: str = "") -> Origin:
        """The origin of a value that follows from the keys `theirs`, or from a default of the framework."""
        written = [key for key in theirs if lookup(self.document.data, key) is not ABSENT]
        if default and not written:
            return Origin(self.document.source, None, theirs[0] if theirs else "", default)
        named = written or list(theirs[:1])
        file, line = self.document.where(named[0]) if written else (self.document.source, None)
        return Origin(file, line, " x ".join(named))

    def fill(self, keys: Iterable[Key]) -> None:
        """Set the path of every key that is written, or has a default."""
        for key in keys:
            value = self.read(key.convert, *key.spellings)
            if value is not None:
                self.put(key.ours, value, self.named(*key.spellings))
            elif key.default is not ABSENT:
                self.put(key.ours, key.default, key.spellings[0], default=key.source or f"{self.title}'s default")

    def gpus(self, *keys: str, count: int | None = None) -> int:
        """Set `gpus`: as asked, else as `keys` say or `count`, else 1 with a note; the number that was set."""
        written = self.read(_positive, *keys) if keys else None
        known = count or written
        if self.asked.gpus:
            return self.asked.gpus
        if known:
            self.put("gpus", known, *keys)
            return int(known)
        self.put("gpus", 1, default=f"{self.title} files leave the number to the launch")
        self.assume("gpus", "gpus-not-in-config", f"{self.title} files do not say on how many GPUs they run: one is "
                    "assumed; say how many with --gpus 8")  # fmt: skip
        return 1

    def adopt(self, other: Reading) -> None:
        """Take over what another file says that this one refers to; values set here already stay."""
        for path, origin in other.origins.items():
            if path.split(".")[0] not in self.run or (path not in self.origins and "." in path):
                self.origins[path] = origin
        for key, value in other.run.items():
            self.run.setdefault(key, value)
        self.warnings.extend(other.warnings)
        self.assumptions.extend(other.assumptions)

    def seen(self, *patterns: str) -> None:
        """Count keys (dotted, * for anything) as read, with all that is below them."""
        self._seen.update(patterns)

    def unmodelled(self, told: dict[str, str]) -> None:
        """Warn of each key of `told` that is written and switched on: it matters, and the numbers leave it out."""
        for key, what in told.items():
            if self.get(key) not in (None, False, 0, "", "no", "none", "false", [], {}):
                self.warn(key, "not-modelled", what)

    def warn(self, key: str, code: str, message: str) -> None:
        """Note what the numbers leave out; `key` is theirs."""
        self.warnings.append(Remark(code, self._at(key), message))

    def assume(self, key: str, code: str, message: str) -> None:
        """Note a reading that was chosen; `key` is theirs or a path of the run."""
        self.assumptions.append(Remark(code, key, message))

    def fault(self, key: str, what: str) -> None:
        """Note a value that can't be right; all are told together."""
        self.faults.append(Fault(self._at(key), f"{what}{_UNFILLED}" if _VARIABLE.search(what) else what))

    def refuse(self, key: str, what: str) -> RunInvalid:
        """The faults with one more, to be raised."""
        self.fault(key, what)
        return RunInvalid(self.faults, self.document.source)

    def unread(self, ignored: Iterable[str] = ()) -> list[str]:
        """The keys that were neither read nor are ignored, each at its highest level."""
        known = [*self._seen, *ignored]
        return [key for key in _outermost(self.document.data, _Known(known))]  # noqa: C416 - an iterator is used up

    def immaterial(self, material: re.Pattern[str], but: re.Pattern[str]) -> list[str]:
        """The outermost keys that no memory follows from: those without a `material` word, or with one of `but`."""
        return [key for key in self.document.data if not material.search(key) or but.search(key)]

    def reading(self, ignored: Iterable[str] = ()) -> Reading:
        """What was read, with a warning of the keys that were not; RunInvalid where something was at fault."""
        if self.faults:
            raise RunInvalid(self.faults, self.document.source)
        self._leave_packed()
        for fault in self.document.repeated.faults if self.document.repeated else ():
            self.warnings.append(Remark("key-repeated", fault.where, f"{fault.what}: the last one counts"))
        left = self.unread(ignored)
        if left:
            named = ", ".join(
                f"{shorten(key)}{_on(self.document.where(key)[1], self._like(key))}" for key in left[:NAMED]
            )
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            self.warnings.append(Remark("keys-not-read", left[0], f"not understood, and not counted: {named}{more}"))
        return Reading(self.format, self.title, self.document.source, self.run, self.origins,
                       tuple(dict.fromkeys(self.warnings)), tuple(dict.fromkeys(self.assumptions)))  # fmt: skip

    def _like(self, key: str) -> str:
        """The key that is read, is not in the document, and is spelt so nearly like this one that it is likely meant."""
        absent = (known for known in self._seen if known not in self.document.data and "*" not in known)
        return likely_name(key, sorted(absent))

    def _leave_packed(self) -> None:
        """Set `quantize` where adapters are trained on a checkpoint whose name says how it is packed."""
        spec, key = self.packed
        adapters = "lora" in self.run or "lora" in self.asked.flags
        if spec is not None and adapters and "quantize" not in self.run and "quantize" not in self.asked.flags:
            self.put("quantize", spec, key)
            self.assume("quantize", "packed-by-name", "the model's name says how its weights are packed")

    def _at(self, key: str) -> str:
        file, line = self.document.where(key)
        return f"{file}:{line} {key}" if line else key


def lookup(data: Any, key: str) -> Any:  # noqa: ANN401 - plain data
    """The value at a dotted path of plain data (a key that holds dots itself wins), or ABSENT."""
    if isinstance(data, dict):
        if key in data:
            return data[key]
        head, dot, rest = key.partition(".")
        return lookup(data[head], rest) if dot and head in data else ABSENT
    head, dot, rest = key.partition(".")
    if isinstance(data, list) and head.isdigit() and int(head) < len(data):
        return lookup(data[int(head)], rest) if dot else data[int(head)]
    return ABSENT


def place(run: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401
    """Set a dotted path of a nested mapping, making the mappings on the way."""
    *around, last = path.split(".")
    for step in around:
        inner = run.get(step)
        run[step] = inner = inner if isinstance(inner, dict) else {}
        run = inner
    run[last] = value


class _Known:
    """Which paths are known: exactly, below a known one, or by a pattern."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.exact = {p for p in patterns if not any(c in p for c in "*?[")}
        self.patterns = [p for p in patterns if any(c in p for c in "*?[")]
        self.one = re.compile("|".join(map(translate, self.patterns)) or r"(?!)")
        self.above = {p[:i] for p in self.exact for i, c in enumerate(p) if c == "."}

    def whole(self, path: str) -> bool:
        return path in self.exact or self.one.match(path) is not None

    def within(self, path: str) -> bool:
        return path in self.above or any(pattern.startswith(f"{path}.") for pattern in self.patterns)


def _outermost(data: dict[str, Any], known: _Known, path: str = "") -> Iterator[str]:
    """Paths that are not known: those of a mapping's keys where part of it is, else of the mapping itself."""
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        if known.whole(here) or value is None:
            continue
        if isinstance(value, dict) and known.within(here):
            yield from _outermost(value, known, here)
        else:
            yield here


def _on(line: int | None, meant: str = "") -> str:
    said = [*([f"line {line}"] if line else []), *([f"is it {meant}?"] if meant else [])]
    return f" ({'; '.join(said)})" if said else ""


def _positive(value: Any) -> int | None:  # noqa: ANN401
    from memcalc.configs.words import whole  # noqa: PLC0415

    count = whole(value)
    return count if count > 0 else None
