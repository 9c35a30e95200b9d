"""pydantic's judgement of a run: a Run where its values can be read as what they should be, else every fault at once."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from memcalc.adapters.spec import Lora
from memcalc.errors import Fault, RunInvalid, nearest_names, several, shorten
from memcalc.presets import Kind, names
from memcalc.run import Parallel, Run, Sharding
from memcalc.run.elsewhere import WITHOUT, own_word
from memcalc.run.spelling import LISTS, SHORTHAND, spelled_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T", bound=object)
_WANTED = {  # pydantic's kinds of faults -> what the value should have been
    **dict.fromkeys(("finite_number", "int_from_float", "int_parsing", "int_type"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "a name",
}
_INSTEAD = {"lora.rank": "; write the rank alone, or a mapping: '{rank: 16, targets: all-linear}'"}
WORD = {"type": ["string", "integer", "boolean", "null"]}  # what may stand for a section, as JSON Schema has it
_SECTIONS: dict[type, str] = {Run: "", Parallel: "parallel.", Lora: "lora."}  # whose keys other tools have words for
NAMED: dict[str, Kind] = {"precision": "precisions", "quantize": "quantizations"}  # keys whose presets no command lists
SIDES = "image_size"  # the key whose numbers may be written in several ways


def judge(given: Mapping[str, Any], source: str, place: Callable[[str], str] | None = None) -> Run:
    """A Run, or RunInvalid with all faults, each at the place that `place` finds for its key."""
    return judged(Run, given, source, place, spelled_out)


def judged(
    kind: type[T],
    given: Mapping[str, Any],
    source: str,
    place: Callable[[str], str] | None = None,
    spell: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
) -> T:
    """The dataclass `kind` that a mapping holds once it is spelled out, or RunInvalid with all faults at their places."""
    own = cast("type", kind)
    faults = [*_unknown(own, given, ""), *_booleans(own, given, "")]
    known = {key: value for key, value in spell(given).items() if key in _names(own)}
    try:
        made: T | None = _adapter(own).validate_python(known)
    except ValidationError as error:
        told = {f.where for f in faults}
        faults += [f for f in _faults(error) if f.where not in told]
        made = None
    if faults or made is None:
        raise RunInvalid([Fault(place(f.where), f.what) if place else f for f in faults], source)
    return made


@lru_cache(maxsize=4)
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def schema() -> dict[str, Any]:
    """The JSON Schema of a run file, for editors."""
    made = _adapter(Run).json_schema()
    made.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "memcalc run file"})
    for part in (made, *made["$defs"].values()):
        part["additionalProperties"] = part.get("title") == "Sharding"  # its options keep the framework's own names
    for key, inner in SHORTHAND.items():
        made["properties"][key] = {"anyOf": [WORD, made["properties"][key]],
                                   "description": f"a word or number stands for its `{inner}`"}  # fmt: skip
    made["$defs"]["Companion"]["properties"]["lora"]["anyOf"].append(WORD)
    made["properties"][SIDES] = {"anyOf": [{"type": ["string", "integer"]}, made["properties"][SIDES]],
                                 "description": "pixels: one side, or height and width, also as 720x1280"}  # fmt: skip
    for key, kind in NAMED.items():
        made["properties"][key]["examples"] = names(kind)
    for key in LISTS:
        made["properties"][key] = _or_one(made["properties"][key])
    return made


def _or_one(several: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list for which one of its items may stand; a companion's role stands for it."""
    one = {"anyOf": [{"type": "string"}, several["items"]]}
    return {"anyOf": [{"type": "null"}, one, {**several, "items": one}],
            "description": "one item may stand for a list of one"}  # fmt: skip


def _names(kind: type) -> list[str]:
    return [f.name for f in fields(kind)]


def _unknown(kind: type, given: Mapping[str, Any], path: str) -> Iterator[Fault]:
    """Keys the vocabulary does not have, at any depth, with the nearest it has."""
    known = _names(kind)
    for key, value in given.items():
        where = f"{path}{key}"
        if key not in known:
            if kind is not Sharding:
                yield Fault(shorten(where), f"unknown key; {_instead(kind, str(key), known)}")
        elif isinstance(value, dict) and (inner := _dataclass_of(kind, key)):
            yield from _unknown(inner, value, f"{where}.")
        elif isinstance(value, (list, tuple)) and (inner := _item_of(kind, key)):
            for i, item in enumerate(value):
                if isinstance(item, dict):
                    yield from _unknown(inner, item, f"{where}.{i}.")


def _instead(kind: type, key: str, known: list[str]) -> str:
    """The key that may be meant: another tool's word for it, or one that reads like it."""
    if kind is Run and key in WITHOUT.split():
        return "it takes no memory of the GPU: leave it out"
    own = own_word(key) if kind in _SECTIONS else None
    near = [own.removeprefix(_SECTIONS[kind])] if own and own.startswith(_SECTIONS[kind]) else nearest_names(key, known)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def _booleans(kind: type, given: Mapping[str, Any], path: str) -> Iterator[Fault]:
    """true and false where a number belongs: YAML reads yes/no/on/off so, and they must not become 1 and 0."""
    for key, value in given.items():
        if key not in _names(kind) or key in SHORTHAND:
            inner = _dataclass_of(kind, key) if key in _names(kind) else None
            if inner and isinstance(value, dict):
                yield from _booleans(inner, value, f"{path}{key}.")
            continue
        if isinstance(value, bool) and _takes_number(kind, key):
            yield Fault(
                f"{path}{key}", f"{str(value).lower()} is not a number (YAML reads yes/no/on/off as true/false)"
            )


@lru_cache(maxsize=64)
def _hint(kind: type, key: str) -> tuple[Any, ...]:
    hint = get_type_hints(kind)[key]
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _dataclass_of(kind: type, key: str) -> type | None:
    return next((h for h in _hint(kind, key) if isinstance(h, type) and is_dataclass(h)), None)


def _item_of(kind: type, key: str) -> type | None:
    """The dataclass that the items of a list are, where they are one."""
    hint = get_type_hints(kind)[key]
    item = get_args(hint)[0] if get_origin(hint) is tuple else None
    return item if isinstance(item, type) and is_dataclass(item) else None


def _takes_number(kind: type, key: str) -> bool:
    hints = _hint(kind, key)
    return bool not in hints and any(h in (int, float) for h in hints)


def _faults(error: ValidationError) -> Iterator[Fault]:
    """pydantic's errors in plain words, one per place."""
    seen: set[str] = set()
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"] if not _is_branch(part))
        where = SIDES if where.startswith(f"{SIDES}.") else where
        if where not in seen:
            seen.add(where)
            tell = _no_size if where == SIDES else _told
            told, value = tell(item["type"], item.get("ctx", {}), item.get("input"), where), item.get("input")
            more = several(where, value) if isinstance(value, str) and where != SIDES else ""
            yield Fault(where or "model", f"{told}.{more}" if more else told)


def _is_branch(part: object) -> bool:
    """Whether a part of pydantic's location names a branch of a union rather than a key."""
    text = str(part)
    return text in ("str", "int", "float", "bool", "none", "constrained-int") or "[" in text or text[:1].isupper()


def _no_size(kind: str, context: Mapping[str, Any], value: object, where: str) -> str:  # noqa: ARG001 - as _told
    shown = shorten(repr(value))
    return f"{shown} is no size of an image; write one side in pixels, such as 1024, or height x width: 720x1280"


def _told(kind: str, context: Mapping[str, Any], value: object, where: str) -> str:
    shown = shorten(repr(value))
    match kind:
        case "missing" | "missing_argument":
            return "is required: a preset (list them with: memcalc models), a config.json, a size such as 7b, or dimensions"
        case "literal_error":
            return _choice(str(context.get("expected", "")), shown, str(value))
        case "greater_than_equal" | "less_than_equal":
            word = "at least" if kind.startswith("greater") else "at most"
            bound = context.get("ge", context.get("le"))
            return f"{shown} is out of range: it must be {word} {bound}"
        case "int_parsing_size":
            return f"{shown} is out of range: it must be at most 10^9"
        case _ if kind in _WANTED:
            return f"{shown} is not {_WANTED[kind]}{_INSTEAD.get(where, '')}"
        case "dataclass_type" | "mapping_type" | "dict_type":
            keys = ", ".join(_section_keys(where)) or "key: value"
            return f"{shown} is not a mapping ({keys})"
        case "tuple_type" | "list_type":
            return f"{shown} is not a list; write [a, b], or a line of `- a` for each"
        case "unexpected_keyword_argument":
            return "unknown key"
        case _:
            return f"{shown} does not fit: {context.get('error', kind.replace('_', ' '))}"


def _section_keys(where: str) -> list[str]:
    inner = _dataclass_of(Run, where) if where in _names(Run) else None
    return _names(inner) if inner else []


def _choice(expected: str, shown: str, value: str) -> str:
    choices = [c.strip(" '") for c in expected.replace(" or ", ",").split(",") if c.strip(" '")]
    near = nearest_names(value, choices)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{shown} is not known; {hint}it is one of {', '.join(choices)}"
