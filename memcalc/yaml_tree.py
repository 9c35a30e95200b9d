"""YAML text -> plain data, with the line of every key: libyaml's events, built into a tree by a short stack machine.

Built from events rather than with `yaml.load` because a run file comes from anywhere: nothing is constructed but
mappings with text keys, lists, text, numbers, booleans and null; nesting and aliases are bounded; a key written twice
is a fault; and a message can say on which line, and what was written there.

How a plain (unquoted) word is read, where YAML 1.1, YAML 1.2 and people differ:

| written | read as | |
|---|---|---|
| `yes no on off true false` | a boolean | as every framework's own reader does; `Tree.written` keeps the word |
| `1e-5`, `5e8`, `.5`, `1_000` | a number | YAML 1.1 makes the first two text |
| `010` | 10 | decimal, as in YAML 1.2; `0o10` and `0x8` are 8 |
| `1:30`, `2024-01-01` | text | not 90, not a date |
| `~`, `null`, nothing | null | |
| `.nan`, `.inf` | a float | left to whoever validates |
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any, Final

import yaml

from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, UnreadableInput, shorten
from memcalc.nesting import DEEPEST

MOST_VALUES: Final = 100_000  # values after every alias is followed; 200 characters of text count as one more

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: Final[dict[str, bool | float | None]] = {
    **{case: value for word, value in (("true", True), ("yes", True), ("on", True), ("false", False), ("no", False),
       ("off", False), ("null", None), (".nan", float("nan")), (".inf", float("inf")), ("+.inf", float("inf")),
       ("-.inf", float("-inf"))) for case in (word, word.capitalize(), word.upper())},
    ".NaN": float("nan"), ".Inf": float("inf"), "+.Inf": float("inf"), "-.Inf": float("-inf"), "~": None, "": None,
}  # fmt: skip
_INTEGER: Final = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_TAGS: Final = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class NotYaml(UnreadableInput):
    """Text that breaks YAML's own syntax, as against YAML that is refused."""


@dataclass(frozen=True)
class Tree:
    """What a document holds; per dotted path ("lora.targets.0") its line, counted from 1, and a plain scalar's text."""

    data: Any
    places: dict[str, int]
    written: dict[str, str]


def tree(text: str, source: str, *, last_wins: bool = False) -> Tree:
    """The one document of `text`; UnreadableInput names the line, RunInvalid lists every key written twice.

    With `last_wins` the last of several keys counts instead, as it does for PyYAML.
    """
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise NotYaml(_explained(error, source)) from None
    except UnicodeEncodeError:
        raise NotYaml(f"{source}: not valid YAML: half of a surrogate pair is no character") from None
    if builder.faults and not last_wins:
        raise RunInvalid(builder.faults, source)
    return Tree(builder.root, builder.places, builder.written)


def plain(word: str) -> Any:  # noqa: ANN401 - text, number, boolean or null
    """What an unquoted word stands for, by the table above."""
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > 400 or word[0] not in "+-.0123456789":
        return word
    if _INTEGER.fullmatch(word):
        return _integer(word)
    return float(word.replace("_", "")) if _FLOAT.fullmatch(word) else word


def _integer(word: str) -> Any:  # noqa: ANN401
    digits = word.lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10)
    try:
        return int(word.replace("_", ""), base)
    except ValueError:  # "0x_"
        return word


@dataclass
class _Frame:
    """A mapping or list that is being filled."""

    into: dict[str, Any] | list[Any]
    path: str
    anchor: str | None
    before: int  # values counted when it began
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)

    def where(self) -> str:
        """The path of what comes next."""
        step = self.key if isinstance(self.into, dict) else str(len(self.into))
        return f"{self.path}.{step}" if self.path else str(step)

    def awaits_key(self) -> bool:
        return self.key is None and isinstance(self.into, dict)


class _Builder:
    """Takes events one by one; `root` is the document when the last has come."""

    def __init__(self, source: str) -> None:
        self.source, self.root = source, None
        self.places: dict[str, int] = {}
        self.written: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = self.documents = 0

    def take(self, event: Any) -> None:  # noqa: ANN401 - yaml's event classes have no types
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self.scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(str(event.anchor), line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.begin(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.end(line)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.refused(line, "a second document begins here; keep one and remove the line `---`")

    def scalar(self, event: Any, line: int) -> None:  # noqa: ANN401
        self.count(1 + len(event.value) // 200, line)
        if self.stack and self.stack[-1].awaits_key():
            self.begin_key(event.value, line)
            return
        value = self.read_scalar(event, line)
        if self.stack and event.implicit[0]:
            self.written[self.stack[-1].where()] = event.value
        self.put(value, line)
        if event.anchor:
            self.anchors[event.anchor] = (value, 1 + len(event.value) // 200)

    def read_scalar(self, event: Any, line: int) -> Any:  # noqa: ANN401
        kind = _TAGS.get(event.tag) if event.tag not in {None, "!"} else None
        if event.tag not in {None, "!"} and kind is None:
            raise self.tagged(event.tag, line)
        if event.implicit[0]:
            return plain(event.value)
        if kind in {None, "str"}:
            return event.value
        value = plain(event.value)
        if kind == "float" and isinstance(value, int):
            return float(value)
        if type(value).__name__.replace("NoneType", "null") != kind:
            raise self.refused(line, f"{shorten(event.value)!r} is not the !!{kind} it is said to be")
        return value

    def begin_key(self, key: str, line: int) -> None:
        frame = self.stack[-1]
        frame.key = key
        if key in frame.lines:
            what = f"the key is written twice (first on line {frame.lines[key]}); keep one of them"
            self.faults.append(Fault(f"{self.source}:{line} {shorten(frame.where())}", what))
        if key != "<<":
            frame.lines.setdefault(key, line)
            self.places.setdefault(frame.where(), line)

    def alias(self, anchor: str, line: int) -> None:
        if anchor not in self.anchors:
            raise self.refused(line, f"the alias *{shorten(anchor)} stands for nothing above it (or for what it is in)")
        self.no_key(line)
        value, size = self.anchors[anchor]
        self.count(size, line)
        self.put(value, line)

    def begin(self, event: Any, line: int) -> None:  # noqa: ANN401
        self.no_key(line)
        if event.tag not in {None, "!"} and event.tag not in _TAGS:
            raise self.tagged(event.tag, line)
        if len(self.stack) >= DEEPEST:
            raise self.refused(line, f"more than {DEEPEST} levels deep; no run or config is")
        into: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self.stack[-1].where() if self.stack else ""
        self.count(1, line)
        self.stack.append(_Frame(into, path, event.anchor, self.values - 1))

    def end(self, line: int) -> None:
        frame = self.stack.pop()
        value = frame.into
        if isinstance(value, dict) and frame.merged:
            under: dict[str, Any] = {}
            for merged in reversed(frame.merged):
                under.update(merged)
            value = {**under, **value}
        if frame.anchor:
            self.anchors[frame.anchor] = (value, self.values - frame.before)
        self.put(value, line)

    def put(self, value: Any, line: int) -> None:  # noqa: ANN401
        """Place a finished value where it belongs."""
        if not self.stack:
            self.root = value
            return
        frame = self.stack[-1]
        if isinstance(frame.into, list):
            self.places[frame.where()] = line
            frame.into.append(value)
        elif frame.key == "<<":
            frame.merged.extend(self.mappings(value, line))
        else:
            frame.into[str(frame.key)] = value
        frame.key = None

    def mappings(self, value: Any, line: int) -> list[dict[str, Any]]:  # noqa: ANN401
        """What `<<` merges: a mapping, or a list of them of which the first wins."""
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in found):
            raise self.refused(line, "`<<` merges a mapping or a list of mappings, and this is neither")
        return found

    def no_key(self, line: int) -> None:
        if self.stack and self.stack[-1].awaits_key():
            raise self.refused(line, "a key must be plain text, not a mapping, a list or an alias")

    def count(self, values: int, line: int) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            raise self.refused(line, f"more than {MOST_VALUES:,} values, aliases followed; no run has as many")

    def tagged(self, tag: str, line: int) -> UnreadableInput:
        short = shorten(tag.replace("tag:yaml.org,2002:", "!!"))
        return self.refused(line, f"the tag {short!r} is not read; write the plain value without it")

    def refused(self, line: int, what: str) -> UnreadableInput:
        return UnreadableInput(f"{self.source}:{line}: {what}")


def _explained(error: yaml.YAMLError, source: str) -> str:
    """One line of what libyaml says in several."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"{source}:{mark.line + 1}" if mark else source
    what = problem or " ".join(str(error).split())
    hint = " (a tab? indent with spaces)" if "cannot start any token" in what else ""
    return f"{where}: not valid YAML: {shorten(what, 200)}{hint}"
