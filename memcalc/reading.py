"""Read a run file or a config from a path or from standard input: text, then plain data with the line of every key.

The file may be anyone's: sizes, nesting and aliases are bounded, nothing is executed, and whatever can't be read is one
UnreadableInput that says what, where and how to fix it.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
import sys
from dataclasses import field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from memcalc.dataclass import dataclass
from memcalc.errors import RunInvalid, UnreadableInput, fault, nearest_names, shorten
from memcalc.nesting import check_depth, too_deep
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.yaml_tree import Tree

LARGEST_FILE: Final = 16 * 2**20
STDIN: Final = "-"

_BOMS: Final = (  # longest first: UTF-32 LE begins with UTF-16 LE's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A mapping that was read, with the place of each of its keys.

    `data` has text keys at every level. Paths are dotted, list items by their number: "lora.targets.0".
    """

    data: dict[str, Any]
    source: str
    _text: str = field(default="", repr=False)
    _tree: Tree | None = field(default=None, repr=False)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The line of each path, counted from 1; empty where JSON uses what YAML can't read."""
        return self._tree.places if self._tree else _lines(self._text, self.source)

    @property
    def written(self) -> Mapping[str, str]:
        """The words of unquoted YAML scalars as they were written ("no" for a False); empty for JSON."""
        return self._tree.written if self._tree else {}

    def place(self, path: str) -> str:
        """`train.yaml:7 lora.rank`: where a path is written, or the nearest thing around it that is."""
        around = path
        while around and around not in self.places:
            around = around.rpartition(".")[0]
        where = f"{self.source}:{self.places[around]}" if around else self.source
        return f"{where} {path}".rstrip()


def read_document(path: str | os.PathLike[str], limit: int = LARGEST_FILE) -> Document:
    """The mapping in a YAML or JSON file, or on standard input ("-")."""
    return parse_document(read_text(path, limit), source_name(path))


def source_name(path: str | os.PathLike[str]) -> str:
    """How messages call an input."""
    name = os.fspath(path)
    return "standard input" if name == STDIN else name if name.isprintable() else repr(name)


def read_text(path: str | os.PathLike[str], limit: int = LARGEST_FILE) -> str:
    """The text of a file, or of standard input for "-", of at most `limit` bytes; UnreadableInput otherwise."""
    source = source_name(path)
    try:
        raw = _standard_input(limit, source) if os.fspath(path) == STDIN else _file(path, limit, source)
    except FileNotFoundError:
        raise UnreadableInput(f"{source}: no such file{_nearby(Path(path))}") from None
    except IsADirectoryError:
        raise UnreadableInput(f"{source} is a folder; name a file in it") from None
    except PermissionError:
        raise UnreadableInput(f"{source}: no permission to read it; check its mode and its owner") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name, a closed standard input
        what = getattr(error, "strerror", None) or str(error)
        raise UnreadableInput(f"{shorten(source)} can't be read: {what}") from None
    return _decoded(raw, source)


def parse_document(text: str, source: str) -> Document:
    """The mapping that YAML or JSON text holds; UnreadableInput, or RunInvalid where a key is written twice."""
    if not text.strip():
        raise UnreadableInput(f"{source} is empty; write at least `model: llama-2-7b`")
    parsed = None
    try:
        data = _json(text, source)
    except ValueError as error:
        parsed = _yaml(text, source, error)
        data = parsed.data
    if data is None:
        raise UnreadableInput(f"{source} holds nothing but comments or null; write at least `model: llama-2-7b`")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"only {shorten(repr(data))}"
        raise UnreadableInput(f"{source} holds {kind}; wanted are `key: value` lines or a JSON object")
    return Document(data, source, text, parsed)


def _standard_input(limit: int, source: str) -> bytes:
    if sys.stdin is None:
        raise UnreadableInput(f"{source} is closed; name a file instead of `-`")
    return _bounded(sys.stdin.buffer, limit, source)


def _file(path: str | os.PathLike[str], limit: int, source: str) -> bytes:
    status = os.stat(path)  # noqa: PTH116 - Path would fold the name's spelling
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if stat.S_ISREG(status.st_mode) and status.st_size > limit:
        raise _too_large(limit, source)
    with Path(path).open("rb") as file:
        return _bounded(file, limit, source)


def _bounded(file: IO[bytes], limit: int, source: str) -> bytes:
    """Everything there is, if it is no more than `limit`: a pipe or a device does not say how long it is."""
    raw = file.read(limit + 1)
    if len(raw) > limit:
        raise _too_large(limit, source)
    return raw


def _too_large(limit: int, source: str) -> UnreadableInput:
    return UnreadableInput(f"{source} is larger than {format_bytes(limit, 'auto')}; runs and configs are far smaller")


def _decoded(raw: bytes, source: str) -> str:
    """Text in UTF-8, or in what its byte order mark says."""
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), "utf-8")
    if b"\0" in raw and encoding.startswith("utf-8"):
        raise _binary(source)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"{source}:{line}: not {encoding.upper().removesuffix('-SIG')} text (byte 0x{raw[error.start]:02x})"
        raise UnreadableInput(f"{what}; save the file as UTF-8") from None
    if "\0" in text:
        raise _binary(source)
    return text


def _binary(source: str) -> UnreadableInput:
    return UnreadableInput(f"{source} is binary, not text; wanted is a YAML or JSON file in UTF-8")


def _json(text: str, source: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What JSON holds; ValueError where the text isn't JSON or repeats a key."""
    if text.lstrip()[0] not in "{[":
        raise ValueError("not JSON")
    try:
        data = json.loads(text, object_pairs_hook=_unrepeated, parse_int=_whole)
    except RecursionError:
        raise too_deep(source) from None
    check_depth(data, source)
    return data


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Repeated(next(key for key in keys if keys.count(key) > 1))
    return made


def _whole(digits: str) -> Any:  # noqa: ANN401
    """An int; digits without end stay text, for turning them into a number takes long and is never meant."""
    return int(digits) if len(digits) <= 400 else digits


class _Repeated(ValueError):  # noqa: N818 - the argument is the key
    """A key that a JSON object holds twice."""


def _yaml(text: str, source: str, not_json: ValueError) -> Tree:
    """The text as YAML; where it is neither that nor JSON, the complaint is about what it looks like."""
    from memcalc.yaml_tree import NotYaml, tree  # noqa: PLC0415 - JSON does without yaml

    try:
        return tree(text, source)
    except UnreadableInput as not_yaml:
        if isinstance(not_json, _Repeated):
            raise fault(source, f"the key {shorten(str(not_json))!r} is written twice; keep one of them") from None
        looks = source.lower().endswith(".json") or text.lstrip()[1:].lstrip()[:1] == '"'
        if not isinstance(not_yaml, NotYaml) or not isinstance(not_json, json.JSONDecodeError) or not looks:
            raise
        what = f"{not_json.msg[:1].lower()}{not_json.msg[1:]} at column {not_json.colno}"
        raise UnreadableInput(f"{source}:{not_json.lineno}: not valid JSON: {what}") from None


def _lines(text: str, source: str) -> Mapping[str, int]:
    """The lines of JSON keys, by reading it again as the YAML that it nearly always is."""
    from memcalc.yaml_tree import tree  # noqa: PLC0415

    try:
        return tree(text, source).places
    except (UnreadableInput, RunInvalid):
        return {}


def _nearby(path: Path) -> str:
    """Files of the same folder whose names read alike."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, 1000)]
    except (OSError, ValueError):
        return ""
    near = nearest_names(path.name, names)
    return f"; there is {', '.join(str(path.with_name(name)) for name in near)}" if near else ""
