"""From flags, `--set` and a run file to one mapping in the run vocabulary: the file first, flags over it, --set last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.errors import UnknownName, UsageError
from memcalc.models import is_model_name
from memcalc.presets import index
from memcalc.question import Question
from memcalc.run import keys
from memcalc.spelling import SHORTHAND
from memcalc.validation import parse_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STDIN = "-"
_OF_A_CONFIG = ("model_type", "_class_name", "architectures")


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/+-]*", re.ASCII)  # a word that is text in YAML, but for these
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def asked(source: str | None, flags: Mapping[str, str | None], changes: Iterable[str]) -> Question:
    """The run of a command line, with the places of what its file holds."""
    given, name, place, beside = _from_source(source)
    for key, text in flags.items():
        if text is not None:
            _put(given, key, value(text))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {change}: write key=value, such as --set lora.rank=16")
        _put(given, key.strip(), value(text))
    if "model" not in given:
        raise UsageError(
            "which model? Name one (memcalc estimate llama-2-7b), or a run file; list models with: memcalc models"
        )
    written = {key for key, text in flags.items() if text is not None}
    where = (lambda path: path if path.split(".")[0] in written else place(path)) if place else None
    return Question(parse_run(given, name, where), beside, name, where)


def _from_source(source: str | None) -> tuple[dict[str, Any], str, Any, Path | None]:
    """What a positional argument holds: a model's name, a run file, a config.json, a folder, or '-' for stdin."""
    if source is None:
        return {}, "the command line", None, None
    if is_model_name(source) or Path(source).is_dir():
        return {"model": source}, "the command line", None, None
    if source != STDIN and not _is_path(source):
        raise UnknownName("model", source, index()["models"], "memcalc models (or name a file that exists)")
    from memcalc.reading import read_document  # noqa: PLC0415 - only files need it

    document = read_document(source)
    beside = None if source == STDIN else Path(source).parent
    if "model" not in document.data and any(key in document.data for key in _OF_A_CONFIG):
        model: Any = document.data if source == STDIN else Path(source).name
        return {"model": model}, document.source, document.place, beside
    return dict(document.data), document.source, document.place, beside


def _is_path(source: str) -> bool:
    """Whether a word means a file: there is one, or it looks like one; `owner/name` alone looks like a hub's model."""
    path = Path(source)
    if path.exists() or path.suffix in (".yaml", ".yml", ".json", ".toml"):
        return True
    return "/" in source and (source.count("/") != 1 or source.startswith((".", "/", "~")))


def value(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """A flag's text as YAML reads it: 8 is a number, {rank: 16} a mapping, adamw a word."""
    stripped = text.strip()
    if not stripped or "\n" in stripped:
        return text
    if _PLAIN.fullmatch(stripped) and stripped.lower() not in _NOT_TEXT:
        return stripped
    from memcalc.reading import parse_document  # noqa: PLC0415 - most flags are plain words
    from memcalc.yaml_tree import NotYaml  # noqa: PLC0415

    try:
        return parse_document(f"value: {stripped}", "the command line").data["value"]
    except NotYaml:
        return text


def _put(given: dict[str, Any], key: str, item: object) -> None:
    """Set a dotted key; a bare word on the way ('lora: 16') becomes the mapping it stands for."""
    first, *rest = key.replace("-", "_").split(".")
    if first not in keys():
        given[first] = item  # an unknown key: the validation names it, with the nearest
        return
    if not rest:
        given[first] = item
        return
    inner = given.get(first)
    if not isinstance(inner, dict):
        inner = {_SPELLED.get(first, "name"): inner} if inner not in (None, False, True) else {}
    given[first] = inner = dict(inner)
    for step in rest[:-1]:
        inner[step] = dict(inner.get(step) or {})
        inner = inner[step]
    inner[rest[-1]] = item


# the key that a bare word stands for where a mapping may stand
_SPELLED = {**SHORTHAND, "precision": "recipe", "optimizer": "name", "quantize": "name", "model": "preset"}
