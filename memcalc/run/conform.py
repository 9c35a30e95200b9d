"""A quick look at whether data plainly is what a dataclass's annotations say.

pydantic judges input and words its faults, but takes 80 ms to load, most of a whole answer. Where every value already has
exactly the type its annotation names, there is nothing to judge; in any doubt this says so and leaves it to pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from memcalc.bounds import Ge, Le

T = TypeVar("T", bound=object)


class Doubt(Exception):  # noqa: N818 - it is no error yet
    """The data is not plainly right; that it is wrong is for pydantic to say."""


def conform(kind: type[T], given: Mapping[str, Any]) -> T:
    """The dataclass `kind` of this mapping; Doubt where a key or a value is not exactly what it names."""
    hints = _hints(cast("type", kind))
    if not given.keys() <= hints.keys():
        raise Doubt
    try:
        return kind(**{key: _value(hints[key], value) for key, value in given.items()})
    except TypeError as error:  # a field without a default is missing
        raise Doubt from error


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _value(hint: Any, value: Any) -> Any:  # noqa: ANN401 - one case per kind of annotation
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _first(get_args(hint), value)
    if origin is Annotated:
        base, *bounds = get_args(hint)
        return _bounded(_value(base, value), bounds)
    if origin is Literal and isinstance(value, str) and value in get_args(hint):
        return value
    if origin is Mapping and isinstance(value, dict):
        _, item = get_args(hint)
        return {str(key): inner if item is Any else _value(item, inner) for key, inner in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        return _items(get_args(hint), value)
    if is_dataclass(hint) and isinstance(hint, type):
        return value if type(value) is hint else conform(hint, _mapping(value))
    if hint is float and type(value) is int:
        return float(value)
    if (hint is NoneType and value is None) or (hint in (str, int, float, bool) and type(value) is hint):
        return value
    raise Doubt


def _first(hints: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401
    """The value by the first annotation of a union that it plainly fits."""
    for hint in hints:
        try:
            return _value(hint, value)
        except Doubt:
            continue
    raise Doubt


def _items(hints: tuple[Any, ...], values: list[Any] | tuple[Any, ...]) -> tuple[Any, ...]:
    """The items of a tuple: any number of the same, or one for each annotation."""
    if hints[-1] is not Ellipsis and len(hints) != len(values):
        raise Doubt
    return tuple(_value(hints[0] if hints[-1] is Ellipsis else hints[i], value) for i, value in enumerate(values))


def _bounded(value: Any, bounds: list[Any]) -> Any:  # noqa: ANN401
    if not all(bound.holds(value) for bound in bounds if isinstance(bound, (Ge, Le))):
        raise Doubt
    return value


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Doubt
    return value
