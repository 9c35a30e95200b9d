"""Files that a config refers to, and values that refer to others: `deepspeed: zero3.json`, `base_config`, `${a.b}`.

Only what a config names is read, and nothing is executed or taken from the environment. A relative name is looked for
beside the config, then where the command runs, then in the folders above the config (a path in a repository's example
is meant from the repository's top). Depth and number are bounded.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from operator import add, mul, truediv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.documents import Document, open_document
from memcalc.configs.table import ABSENT, lookup
from memcalc.errors import UnreadableInput, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ABOVE: Final = 8  # folders above a config that are looked in
DEEPEST: Final = 10  # files that refer to one another
LONGEST: Final = 10_000  # characters of text after interpolation

_RECKONED: Final = {"multiply": mul, "divide": truediv, "add": add, "sum": add, "int_multiply": mul}
_REFERENCE: Final = re.compile(r"\$\{([^${}]{1,200})\}")


def find(document: Document, name: str) -> Path | None:
    """The file or folder that a config means by `name`; None where there is none."""
    if not name or "\0" in name or "://" in name:
        return None
    try:
        wanted = Path(name).expanduser()
        return next((path for path in _candidates(document.beside, wanted) if path.exists()), None)
    except (OSError, RuntimeError, ValueError):  # a name too long; no home folder
        return None


def _candidates(beside: Path | None, wanted: Path) -> Iterator[Path]:
    if wanted.is_absolute():
        yield wanted
        return
    if beside is not None:
        yield beside / wanted
    yield wanted
    if beside is not None:
        yield from (folder / wanted for folder in list(beside.resolve().parents)[:ABOVE])


def follow(document: Document, name: str) -> Document:
    """The document that a config refers to by `name`; UnreadableInput says where it was looked for."""
    path = find(document, name)
    if path is None:
        raise UnreadableInput(f"{document.source} refers to {shorten(name)!r}, which is neither beside it, nor below the "
                              "current folder, nor below a folder above it")  # fmt: skip
    return open_document(path)


def over_base(document: Document, named: Callable[[Document], str | None]) -> Document:
    """The document laid over those it names as its base, one after the other (`named` gives a document's base)."""
    chain = [document]
    while (name := named(chain[-1])) is not None:
        if len(chain) >= DEEPEST:
            raise UnreadableInput(f"{document.source}: more than {DEEPEST} files, each the base of the next")
        chain.append(follow(chain[-1], name))
    made = chain.pop()
    for upper in reversed(chain):
        made = laid_over(upper, made)
    return made


def laid_over(upper: Document, base: Document) -> Document:
    """The keys of both, the upper's where both have one; mappings are merged."""
    return replace(upper, data=_merged(base.data, upper.data), base=base)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    made = dict(under)
    for key, value in over.items():
        below = made.get(key)
        made[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return made


def interpolated(document: Document) -> Document:
    """The document with each `${a.b}` that names another of its values replaced by it.

    Of OmegaConf's resolvers only those that look values up are followed: `${oc.select:a.b,default}`, and the default
    of `${oc.env:NAME,default}`; and those of NeMo that reckon with numbers (`${multiply:4,${.hidden_size}}`). Anything
    else stays as it is written.
    """
    return replace(document, data=_resolved(document.data, document.data, "", 0))


def _resolved(value: Any, root: dict[str, Any], parent: str, depth: int) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, dict):
        return {k: _resolved(v, root, f"{parent}.{k}" if parent else k, depth) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, root, parent, depth) for v in value]
    if not isinstance(value, str) or "${" not in value or depth > DEEPEST:
        return value
    alone = _REFERENCE.fullmatch(value.strip())
    if alone:
        found = _referred(alone[1], root, parent)
        return value if found is ABSENT else _resolved(found, root, parent, depth + 1)
    return _substituted(value, root, parent, depth)


def _substituted(value: str, root: dict[str, Any], parent: str, depth: int) -> Any:  # noqa: ANN401
    """Text with its references replaced by the text of what they name; a value where it then refers to one alone."""

    def one(match: re.Match[str]) -> str:
        found = _referred(match[1], root, parent)
        return match[0] if found is ABSENT or isinstance(found, dict | list) else str(found)

    made = _REFERENCE.sub(one, value)
    if made == value or len(made) > LONGEST:
        return value
    again = _resolved(made, root, parent, depth + 1)
    return made if isinstance(again, dict | list) else again


def _referred(inner: str, root: dict[str, Any], parent: str) -> Any:  # noqa: ANN401
    resolver, colon, rest = inner.partition(":")
    if not colon:
        return lookup(root, _absolute(inner.strip(), parent))
    if resolver.strip() in _RECKONED:
        return _reckoned(resolver.strip(), rest)
    first, _, fallback = rest.partition(",")
    found = lookup(root, first.strip()) if resolver.strip() in ("oc.select", "select") else ABSENT
    if found is not ABSENT or resolver.strip() not in ("oc.select", "select", "oc.env", "env"):
        return found
    return _plain(fallback.strip()) if fallback else ABSENT


def _reckoned(resolver: str, written: str) -> Any:  # noqa: ANN401
    """The numbers between commas, reckoned from left to right; ABSENT where they are none."""
    try:
        numbers = [float(item) for item in written.split(",")]
        made = reduce(_RECKONED[resolver], numbers)
        return int(made) if made.is_integer() else made
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, AttributeError):
        return ABSENT


def _absolute(name: str, parent: str) -> str:
    """A relative reference (`${.sibling}`, `${..uncle}`) as a path from the top; `parent` is the referring key."""
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    steps = parent.split(".")[: -dots or None]
    return ".".join([*steps, name.lstrip(".")])


def _plain(word: str) -> Any:  # noqa: ANN401
    from memcalc.yaml_tree import plain  # noqa: PLC0415 - only defaults of resolvers need it

    return plain(word.strip("'\"")) if word else word
