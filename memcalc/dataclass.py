"""`dataclass` as in the standard library, for values that cost little to define and to make.

The standard library writes and compiles up to six methods of each class where its module is imported: a third of a command's
time. Here it reads the fields and makes the slots, and a method is compiled when it is first asked for: of the classes that a
command imports few are compared, and most make no value or two at the most, which are filled field by field. A compiled
`__init__` puts fields right into their slots, in little more than half the time of `object.__setattr__`.

Left out, since no value here has them: order, unsafe_hash, weakref_slot, InitVar, and a docstring for a class without one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError, fields
from functools import partial
from reprlib import recursive_repr
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from dataclasses import Field
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - to a type checker it is the standard library's

Class: TypeAlias = "type[Any]"
Method: TypeAlias = "Callable[..., Any]"
Known: TypeAlias = "dict[str, Any]"  # what a compiled method may name

FEW = 2  # values of a class that are made in less time than compiling takes
_put = object.__setattr__  # past what refuses to in a frozen class


def _dataclass(
    cls: Class | None = None, /, *, eq: bool = True, frozen: bool = False, kw_only: bool = False, slots: bool = False
) -> Any:  # noqa: ANN401 - a class, or what makes one of a class
    def decorated(cls: Class) -> Class:
        return _made(cls, eq=eq, frozen=frozen, kw_only=kw_only, slots=slots)

    return decorated if cls is None else decorated(cls)


if not TYPE_CHECKING:
    dataclass = _dataclass


def _made(cls: Class, *, eq: bool, frozen: bool, kw_only: bool, slots: bool) -> Class:
    if any(getattr(base, "__frozen__", frozen) is not frozen for base in cls.__mro__[1:]):
        raise TypeError("a frozen dataclass cannot inherit from one that is not, nor the other way round")
    hashed = cls.__dict__.get("__hash__") is not None  # by the class itself
    cls = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
    for name, method in _methods(cls, eq=eq, frozen=frozen, slots=slots):
        if name not in cls.__dict__:
            setattr(cls, name, method)
    if eq and not hashed:
        setattr(cls, "__hash__", _Later(cls, "__hash__", _hash) if frozen else None)  # noqa: B010 - a method to mypy
    cls.__frozen__ = frozen
    return cls


def _methods(cls: Class, *, eq: bool, frozen: bool, slots: bool) -> Iterator[tuple[str, Any]]:
    yield "__init__", _First(cls, "__init__", _init)
    yield "__repr__", _repr
    if eq:
        yield "__eq__", _Later(cls, "__eq__", _eq)
    if frozen:
        yield from zip(("__setattr__", "__delattr__"), _guards(cls), strict=True)
    if frozen and slots:
        yield from (("__getstate__", _getstate), ("__setstate__", _setstate))


class _Later:
    """A method until somebody asks for it: then it is compiled, and takes this place in its class."""

    __slots__ = ("cls", "name", "text")

    def __init__(self, cls: Class, name: str, text: Callable[[Class, Known], str]) -> None:
        self.cls, self.name, self.text = cls, name, text

    def __get__(self, value: Any, owner: Class) -> Method:  # noqa: ANN401 - of any class
        known: Known = {}
        exec(f"def {self.name}{self.text(self.cls, known)}", known)  # noqa: S102 - made of the names of fields alone
        method = known[self.name]
        method.__qualname__, method.__module__ = f"{self.cls.__qualname__}.{self.name}", self.cls.__module__
        if self.name == "__init__":
            types = {field.name: field.type for field in fields(self.cls) if field.init}
            method.__annotations__ = {**types, "return": None}
        setattr(self.cls, self.name, method)
        bound: Method = method.__get__(value, owner)
        return bound


class _First(_Later):
    """`__init__`, which is compiled after a class's first values."""

    __slots__ = ("made",)

    def __init__(self, cls: Class, name: str, text: Callable[[Class, Known], str]) -> None:
        super().__init__(cls, name, text)
        self.made = 0

    def __get__(self, value: Any, owner: Class) -> Method:  # noqa: ANN401
        if self.made >= FEW or not isinstance(value, self.cls):  # somebody reads its signature
            return super().__get__(value, owner)
        self.made += 1
        return partial(self.fill, value)

    def fill(self, value: Any, /, *given: Any, **named: Any) -> None:  # noqa: ANN401
        """What `__init__` does; where it would be called wrongly, it says so itself."""
        told = dict(
            zip((field.name for field in fields(self.cls) if field.init and not field.kw_only), given, strict=False)
        )
        wrong = len(told) < len(given) or not told.keys().isdisjoint(named)
        told |= named
        for field in fields(self.cls):
            if field.init and field.name in told:
                _put(value, field.name, told.pop(field.name))
            elif field.default_factory is not MISSING:
                _put(value, field.name, field.default_factory())
            elif field.default is not MISSING and (field.init or _slot(self.cls, field)):
                _put(value, field.name, field.default)
            else:
                wrong |= field.init
        if wrong or told:
            super().__get__(value, self.cls)(*given, **named)
        elif hasattr(value, "__post_init__"):
            value.__post_init__()


def _slot(cls: Class, field: Field[Any]) -> MemberDescriptorType | None:
    """The slot of a field, where its class has one."""
    found = getattr(cls, field.name, None)
    return found if isinstance(found, MemberDescriptorType) else None


class _Factory:
    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()  # the default, in a signature, of a field with a factory


def _init(cls: Class, known: Known) -> str:
    taken = [field for field in fields(cls) if field.init]
    words = [_parameter(field, known) for field in taken if not field.kw_only]
    named = [_parameter(field, known) for field in taken if field.kw_only]
    body = [*_stores(cls, known), *["self.__post_init__()"] * hasattr(cls, "__post_init__")]
    return f"({', '.join(['self', *words, *['*'] * bool(named), *named])}):\n " + "\n ".join(body or ["pass"])


def _parameter(field: Field[Any], known: Known) -> str:
    if field.default_factory is not MISSING:
        known["_FACTORY"] = _FACTORY
        return f"{field.name}=_FACTORY"
    if field.default is MISSING:
        return field.name
    known[f"_default_{field.name}"] = field.default
    return f"{field.name}=_default_{field.name}"


def _stores(cls: Class, known: Known) -> Iterator[str]:
    """The statements that put each field where it belongs."""
    known["_put"] = _put
    for field in fields(cls):
        slot = _slot(cls, field)
        value = _value(field, known, slotted=slot is not None)
        if value and slot and cls.__frozen__:
            known[f"_set_{field.name}"] = slot.__set__
            yield f"_set_{field.name}(self, {value})"
        elif value:
            yield f"_put(self, {field.name!r}, {value})" if cls.__frozen__ else f"self.{field.name} = {value}"


def _value(field: Field[Any], known: Known, *, slotted: bool) -> str:
    """What a field starts with; nothing where its class has its default, or nobody knows one."""
    if field.default_factory is not MISSING:
        known[f"_make_{field.name}"] = field.default_factory
        return f"_make_{field.name}()" + (f" if {field.name} is _FACTORY else {field.name}" if field.init else "")
    if field.init:
        return field.name
    known[f"_default_{field.name}"] = field.default
    return f"_default_{field.name}" if slotted and field.default is not MISSING else ""


def _eq(cls: Class, known: Known) -> str:  # noqa: ARG001 - one signature for all
    names = [field.name for field in fields(cls) if field.compare]
    mine, others = ("".join(f"{value}.{name}, " for name in names) for value in ("self", "other"))
    return f"(self, other):\n return ({mine}) == ({others}) if other.__class__ is self.__class__ else NotImplemented"


def _hash(cls: Class, known: Known) -> str:  # noqa: ARG001
    names = [field.name for field in fields(cls) if (field.compare if field.hash is None else field.hash)]
    return f"(self):\n return hash(({''.join(f'self.{name}, ' for name in names)}))"


@recursive_repr()
def _repr(self: Any) -> str:  # noqa: ANN401 - as all below, of any class
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _guards(cls: Class) -> tuple[Method, Method]:
    """`__setattr__` and `__delattr__` that refuse the fields of a frozen class, and any attribute of its own values."""

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: ANN401, N807
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: ANN401, N807
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return __setattr__, __delattr__


def _getstate(self: Any) -> list[Any]:  # noqa: ANN401
    return [getattr(self, field.name) for field in fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:  # noqa: ANN401
    for field, value in zip(fields(self), state, strict=True):
        _put(self, field.name, value)
