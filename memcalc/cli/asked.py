"""From flags, `--set` and a run file to one mapping in the run vocabulary: the file first, flags over it, --set last."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcalc.errors import UsageError
from memcalc.run.asking import question_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.run.question import Question

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/+-]*", re.ASCII)  # a word that is text in YAML, but for these
_RANGE = re.compile(r"[0-9]+\.\.[0-9]+", re.ASCII)
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def asked(
    source: str | None, flags: Mapping[str, str | None], changes: Iterable[str], form: str = "", *, hub: bool = False
) -> Question:
    """The run of a command line, with the places of what its file holds; `form` is the format of a foreign file."""
    return question_of(source, said(flags, changes), form, hub=hub)


def said(flags: Mapping[str, str | None], changes: Iterable[str]) -> list[tuple[str, Any]]:
    """(dotted key, value) of every flag that was given and of every `--set`, in this order."""
    return [(key, value(text)) for key, text in flags.items() if text is not None] + [_change(c) for c in changes]


def _change(text: str) -> tuple[str, Any]:
    """The key and the value of a `--set`."""
    key, equals, item = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {text}: write key=value, such as --set lora.rank=16")
    return key.strip(), value(item)


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


def choices(text: str, flag: str) -> tuple[str, tuple[Any, ...]]:
    """KEY=A,B,C or KEY=1..8 (doublings) as a key and its values; commas inside brackets belong to their value."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise UsageError(f"{flag} {text}: write key=a,b, such as {flag} optimizer=adamw,adamw-8bit")
    if _RANGE.fullmatch(values.strip()):
        from memcalc.recommender.wishes import numbers  # noqa: PLC0415 - few values are ranges

        return key.strip(), tuple(numbers(values.strip(), key.strip()))
    return key.strip(), tuple(value(part) for part in _parts(values))


def _parts(text: str) -> list[str]:
    """The text cut at the commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]
