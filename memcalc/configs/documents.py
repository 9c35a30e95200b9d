"""Read any config file: YAML, JSON or TOML as plain data with the line of every key, other text as text.

Bounded as `memcalc.reading` is; nothing is executed. A file that is not a mapping (a launch script) keeps its text and
the reason why, so that a reader of scripts may take it and the reason is told if none does.
"""

from __future__ import annotations

import re
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcalc.dataclass import dataclass
from memcalc.errors import RunInvalid, UnreadableInput
from memcalc.nesting import check_depth
from memcalc.reading import STDIN, parse_document, read_text, source_name

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

LARGEST_TOML: Final = 2 * 2**20  # tomllib is slow, and job files are short
_ENTRY: Final = re.compile(r"([A-Za-z0-9_.\"'-]{1,200})[ \t]{0,200}=")


@dataclass(frozen=True)
class Document:
    """A file that was read: `data` is its mapping (empty where it holds none), `path` None for standard input.

    `lines` holds the line of each dotted path. `base` is the document that this one was laid over. `within` is the path of
    `data` in the file where it is a part of it; `repeated` the complaint about keys that are written twice, of which the
    last counts (as every framework's reader has it).
    """

    text: str
    data: dict[str, Any]
    source: str
    path: Path | None = None
    unreadable: UnreadableInput | None = None
    base: Document | None = None
    within: str = ""
    repeated: RunInvalid | None = None
    _parsed: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def lines(self) -> Mapping[str, int]:
        """The line of each dotted path, counted from 1, where it is known."""
        if self._parsed is not None:
            return self._parsed.places  # type: ignore[no-any-return]
        return toml_lines(self.text) if self.data else {}

    @property
    def written(self) -> Mapping[str, str]:
        """Unquoted YAML scalars as they were written ("no" for a False)."""
        return self._parsed.written if self._parsed is not None else {}

    @property
    def beside(self) -> Path | None:
        """The folder that the file is in; None for standard input."""
        return self.path.parent if self.path else None

    def where(self, key: str) -> tuple[str, int | None]:
        """The file and the line that hold a dotted path, or the nearest thing around it; line None if unknown."""
        around = f"{self.within}.{key}" if self.within and key else self.within or key
        while around:
            found = self._written_at(around)
            if found is not None:
                return found
            around = around.rpartition(".")[0]
        return self.source, None

    def _written_at(self, key: str) -> tuple[str, int] | None:
        """The place of exactly this path, here or in what this document was laid over."""
        if key in self.lines:
            return self.source, self.lines[key]
        return self.base._written_at(key) if self.base is not None else None  # noqa: SLF001 - of the same class

    def part(self, key: str, data: dict[str, Any]) -> Document:
        """The mapping `data` that stands at a dotted path, as a document of its own; places are those of the file."""
        return replace(self, data=data, within=f"{self.within}.{key}" if self.within else key)


def open_document(path: str | os.PathLike[str]) -> Document:
    """The document of a path or of standard input ("-"); UnreadableInput where it is no text at all."""
    text = read_text(path)
    return document_of(text, source_name(path), None if str(path) == STDIN else Path(path))


def document_of(text: str, source: str, path: Path | None = None) -> Document:
    """The document that text holds: YAML or JSON, TOML by its ending or where it is nothing else, or only text."""
    if path is not None and path.suffix.lower() == ".toml":
        return Document(text, _toml(text, source), source, path)
    try:
        parsed = parse_document(text, source)
    except RunInvalid as error:
        return _repeating(text, source, path, error)
    except UnreadableInput as error:
        data = _as_toml(text, source)
        return Document(text, data, source, path, None if data else error)
    return Document(text, parsed.data, source, path, _parsed=parsed)


def _repeating(text: str, source: str, path: Path | None, error: RunInvalid) -> Document:
    """A document with keys that are written twice, the last of which counts."""
    from memcalc.yaml_tree import tree  # noqa: PLC0415 - JSON does without yaml

    parsed = tree(text, source, last_wins=True)
    if not isinstance(parsed.data, dict):
        raise error
    return Document(text, parsed.data, source, path, repeated=error, _parsed=parsed)


def _as_toml(text: str, source: str) -> dict[str, Any]:
    """What text without an ending holds as TOML, which it is only if it says so early; {} where it isn't."""
    if not any(_section(line) or _ENTRY.match(line.lstrip()) for line in text[:4000].splitlines()):
        return {}
    try:
        return _toml(text, source)
    except UnreadableInput:
        return {}


def _toml(text: str, source: str) -> dict[str, Any]:
    if len(text) > LARGEST_TOML:
        raise UnreadableInput(f"{source} is larger than {LARGEST_TOML >> 20} MiB; TOML that runs a job is far smaller")
    import tomllib  # noqa: PLC0415 - only TOML needs it

    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnreadableInput(f"{source}: not valid TOML: {error}") from None
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        raise UnreadableInput(f"{source}: not valid TOML: {type(error).__name__}") from None
    check_depth(data, source)
    return data


def toml_lines(text: str) -> dict[str, int]:
    """The line of each `section.key` of TOML text, by its own layout: a section, then its keys, one per line."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _section(line):
            section = header
            found.setdefault(section, number)
        elif entry := _ENTRY.match(line.lstrip()):
            found.setdefault(f"{section}.{_bare(entry[1])}".lstrip("."), number)
    return found


def _section(line: str) -> str:
    """The dotted name in a line that begins a section, `[training]` or `[[datasets]]`; '' for any other line."""
    inner, bracket, rest = line.strip().lstrip("[").partition("]")
    begins = line.lstrip().startswith("[") and bracket and (rest.strip("] \t") or "#").startswith("#")
    return _bare(inner) if begins else ""


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
