"""memcalc's `dataclass` does what the standard library's does, on classes of every form that memcalc has."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field, fields, replace
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from memcalc import dataclass as ours

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = [
    {"frozen": frozen, "slots": slots, "kw_only": kw_only}
    for frozen in (True, False) for slots in (True, False) for kw_only in (True, False)
]  # fmt: skip


def family(dataclass: Any, **form: bool) -> SimpleNamespace:
    """Classes made by one of the two: the same text for both."""

    @dataclass(**form)
    class Base:
        """Defaults, a factory, and a field that is not compared."""

        first: int
        second: tuple[int, ...] = ()
        third: list[int] = field(default_factory=lambda: [3])
        unseen: Any = field(default=None, repr=False, compare=False)
        kind: ClassVar[str] = "base"

        def total(self) -> int:
            return self.first + sum(self.second) + sum(self.third)

    @dataclass(**form)
    class Derived(Base):
        """A new default of an inherited field, and fields that are not given."""

        second: tuple[int, ...] = (1, 2)
        cache: dict[int, int] = field(default_factory=dict, init=False, compare=False)
        ready: bool = field(default=False, init=False)
        fourth: Any = field(default="four", kw_only=True)

    class Plain(Base):
        """No fields of its own."""

    @dataclass(**form)
    class After:
        """What comes after the fields."""

        first: int
        double: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", 2 * self.first)

    @dataclass(**form)
    class Own:
        """Methods of its own."""

        first: int = 1

        def __init__(self) -> None:
            object.__setattr__(self, "first", 7)

        def __repr__(self) -> str:
            return "its own"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 1

    @dataclass(**form)
    class Nothing:
        """No fields."""

    @dataclass(eq=False, **form)
    class Alone:
        """Equal to itself only."""

        first: int = 1

    @dataclass(**form)
    class Unhashed:
        """A field that counts in comparisons, and not in the hash."""

        first: int = 1
        second: dict[str, int] = field(default_factory=dict, hash=False)

    return SimpleNamespace(**{name: made for name, made in locals().items() if isinstance(made, type)})


def outcome(act: Callable[[SimpleNamespace], Any], of: SimpleNamespace) -> Any:
    """What an act gives, or what it raises."""
    try:
        return act(of)
    except Exception as error:  # noqa: BLE001 - compared
        return type(error), str(error)


def shape(of: SimpleNamespace, name: str) -> Any:
    """A class's fields, signature and matching."""
    cls = getattr(of, name)
    told = [(f.name, f.type, f.default, f.init, f.repr, f.compare, f.hash, f.kw_only) for f in fields(cls)]
    return told, str(inspect.signature(cls)), cls.__match_args__, cls.__doc__, cls.__init__.__qualname__


def matched(value: Any) -> Any:
    match value:
        case SimpleNamespace():
            return None
        case _ if value.__match_args__[:1] == ("first",):
            return value.first
    return "by name only"


def assigned(value: Any, name: str) -> Any:
    setattr(value, name, 9)
    return getattr(value, name)


def deleted(value: Any, name: str) -> Any:
    delattr(value, name)
    return hasattr(value, name)


def holding_itself(of: SimpleNamespace) -> Any:
    value = of.Base(first=1)
    value.third.append(value)
    return value


ACTS: dict[str, Callable[[SimpleNamespace], Any]] = {
    "shapes": lambda of: {name: shape(of, name) for name in vars(of) if name != "Own"},
    "defaults": lambda of: repr(of.Base(first=1)),
    "all by name": lambda of: repr(of.Derived(first=1, second=(4,), third=[5], unseen=6, fourth=7)),
    "by position": lambda of: repr(of.Base(1, (2,))),
    "too many": lambda of: of.Base(1, (2,), [3], 4, 5),
    "missing": lambda of: of.Base(),
    "unknown": lambda of: of.Base(first=1, fifth=2),
    "one that is not given": lambda of: of.Derived(first=1, ready=True),
    "a factory's is new": lambda of: of.Base(first=1).third is of.Base(first=1).third,
    "what it starts with": lambda of: (of.Derived(first=1).cache, of.Derived(first=1).ready),
    "a class's default": lambda of: getattr(of.Base, "second", None) == (),
    "after the fields": lambda of: repr(of.After(first=4)),
    "its own methods": lambda of: (repr(of.Own()), of.Own() == of.Own(), hash(of.Own()), of.Own().first),
    "equal": lambda of: (of.Base(first=1) == of.Base(first=1, unseen=2), of.Base(first=1) != of.Base(first=2)),
    "equal of another class": lambda of: (of.Base(first=1) == of.Derived(first=1), of.Base(first=1) == of.Plain(first=1)),
    "equal to what is no value": lambda of: (of.Base(first=1) == 1, of.Base(first=1).__eq__(1)),
    "none of it equal": lambda of: (of.Alone() == of.Alone(), of.Nothing() == of.Nothing()),
    "hash": lambda of: hash(of.Base(first=1, third=())) == hash((1, (), ())),
    "hash of one field": lambda of: hash(of.Unhashed(first=1)) == hash((1,)),
    "hash of none": lambda of: hash(of.Nothing()) == hash(()),
    "hash of what has none": lambda of: hash(of.Base(first=1)),
    "hash of itself": lambda of: of.Alone.__hash__ is object.__hash__,
    "has a hash": lambda of: {name: cls.__hash__ is None for name, cls in vars(of).items()},
    "repr within": lambda of: repr(of.Base(first=1, third=[of.Derived(first=2)])),
    "repr of itself": lambda of: repr(holding_itself(of)),
    "replaced": lambda of: repr(replace(of.Derived(first=1), first=2, third=[])),
    "replaced what is not given": lambda of: replace(of.Derived(first=1), ready=True),
    "as a dictionary": lambda of: dataclasses.asdict(of.Derived(first=1)),
    "is one": lambda of: (dataclasses.is_dataclass(of.Base), dataclasses.is_dataclass(of.Plain(first=1))),
    "method": lambda of: of.Base(first=1, second=(1, 1)).total(),
    "class variable": lambda of: of.Derived(first=1).kind,
    "matched": lambda of: matched(of.Derived(first=5)),
    "copied": lambda of: copy.copy(of.Derived(first=1, third=[2])) == of.Derived(first=1, third=[2]),
    "copied deeply": lambda of: repr(copy.deepcopy(of.Derived(first=1, third=[2]))),
    "assigned": lambda of: assigned(of.Base(first=1), "first"),
    "assigned what is no field": lambda of: assigned(of.Plain(first=1), "other") == 9,
    "assigned to a plain class's": lambda of: (assigned(of.Plain(first=1), "other"), assigned(of.Plain(first=1), "first")),
    "deleted": lambda of: deleted(of.Base(first=1), "first"),
    "deleted what is no field": lambda of: deleted(of.Plain(first=1), "other"),
    "slots": lambda of: (getattr(of.Base, "__slots__", None), hasattr(of.Base(first=1), "__dict__")),
    "names and values": lambda of: list(getattr(of.Derived(first=1), "__dict__", ())),
}  # fmt: skip

# Where it has slots, the standard library's refuses all attributes of a class derived from a frozen one (its super() is of the
# class that it replaced); ours does what both do without slots.
OF_ANOTHER_CLASS = {"assigned what is no field", "assigned to a plain class's", "deleted what is no field"}


def names(form: dict[str, bool]) -> str:
    return "-".join(name for name, on in form.items() if on) or "plain"


@pytest.mark.parametrize("few", [0, ours.FEW])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("form", FORMS, ids=names)
def test_the_same_as_the_standard_library(
    form: dict[str, bool], act: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "FEW", few)
    expected = outcome(ACTS[act], family(dataclasses.dataclass, **form))
    if form["frozen"] and form["slots"] and act in OF_ANOTHER_CLASS:
        expected = outcome(ACTS[act], family(dataclasses.dataclass, **{**form, "slots": False}))
    assert outcome(ACTS[act], family(ours.dataclass, **form)) == expected


@pytest.mark.parametrize(("base", "derived"), [(True, False), (False, True)])
def test_frozen_and_not_do_not_mix(base: bool, derived: bool) -> None:
    made: Any = ours.dataclass
    over = made(frozen=base)(type("Over", (), {}))
    with pytest.raises(TypeError, match="cannot inherit"):
        made(frozen=derived)(type("Under", (over,), {}))


@ours.dataclass(frozen=True, slots=True)
class Slotted:
    """A value that is saved."""

    first: int
    second: tuple[int, ...] = ()


@ours.dataclass(frozen=True)
class Remembering:
    """A value that keeps what it has found out."""

    first: int

    @cached_property
    def double(self) -> int:
        return 2 * self.first


def test_a_value_is_saved_and_read_again() -> None:
    for value in (Slotted(1, (2,)), Remembering(1)):
        assert pickle.loads(pickle.dumps(value)) == value


def test_a_value_keeps_what_it_has_found_out() -> None:
    value = Remembering(2)
    assert (value.double, vars(value)) == (4, {"first": 2, "double": 4})
    with pytest.raises(FrozenInstanceError):
        value.first = 3  # type: ignore[misc]


def test_a_method_is_compiled_once_and_when_it_is_needed() -> None:
    made: Any = ours.dataclass
    cls = made(frozen=True)(type("Late", (), {"__annotations__": {"first": "int"}}))
    values = [cls(1) for _ in range(ours.FEW)]
    assert not any(inspect.isfunction(vars(cls)[name]) for name in ("__init__", "__eq__", "__hash__"))
    assert cls(1) == values[0]
    assert inspect.isfunction(vars(cls)["__init__"])
    assert inspect.isfunction(vars(cls)["__eq__"])
    assert vars(cls)["__init__"] is cls.__init__
