"""The options of a strategy, in its framework's own words: read, checked, and refused all at once where they are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from memcalc.dtypes import dtype_name
from memcalc.errors import Fault, RunInvalid, nearest_names, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Reader: TypeAlias = "Callable[[Any], Any]"  # a value as it is meant; ValueError says what is wrong with it


def read(given: Mapping[str, Any], known: Mapping[str, Reader], strategy: str) -> dict[str, Any]:
    """The options given, as they are meant; RunInvalid lists every one that is unknown or wrong, with the nearest key."""
    found, faults = {}, []
    for key, value in given.items():
        reader = known.get(key)
        try:
            if reader is None:
                near = ", ".join(nearest_names(str(key), known)) or ", ".join(known)
                raise ValueError(f"{strategy} has no such option; nearest: {near}")  # noqa: TRY301 - one place to collect
            found[key] = reader(value)
        except ValueError as error:
            faults.append(Fault(f"sharding.{shorten(str(key))}", str(error)))
    if faults:
        raise RunInvalid(faults)
    return found


def flag(value: object) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"{shorten(repr(value))} is neither true nor false")


def count(value: object) -> int:
    """A whole number above zero: 25, 5e8, "500_000_000"."""
    number = amount(value)
    if number < 1:
        raise ValueError(f"{shorten(repr(value))} is less than 1")
    return number


def amount(value: object) -> int:
    """A whole number, zero included."""
    try:
        number = -1.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if number < 0 or number != number // 1:
        raise ValueError(f"{shorten(repr(value))} is no whole number")
    return int(number)


def number(value: object) -> float:
    """A number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{shorten(repr(value))} is no number above zero")
    return float(value)


def dtype(value: object) -> str:
    """A floating-point dtype by any of its names; '' where it is null."""
    if value is None or value is False:
        return ""
    name = dtype_name(shorten(str(value)))
    if name not in ("fp64", "fp32", "bf16", "fp16", "fp8"):
        raise ValueError(f"{shorten(repr(value))} is no dtype to train in; write fp32, bf16 or fp16")
    return name


def one_of(*words: str) -> Reader:
    """One of these words, whatever its case, dashes and leading underscores."""

    def reader(value: object) -> str:
        wanted = str(value)
        for word in words:
            if _plain(wanted) == _plain(word):
                return word
        near = nearest_names(wanted, words)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{shorten(repr(value))} is not known; {hint}it is one of {', '.join(words)}")

    return reader


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").strip("_")


def either(*readers: Reader) -> Reader:
    """What the first of these readers takes."""

    def reader(value: object) -> Any:  # noqa: ANN401 - what the readers make of it
        for attempt in readers[:-1]:
            try:
                return attempt(value)
            except ValueError:
                continue
        return readers[-1](value)

    return reader
