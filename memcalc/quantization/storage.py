"""Scheme: how one library stores a quantised weight, as the rule of its preset; from a shape to the parts kept for it.

A size in a preset is read from left to right, divisions rounding up: "cols/1024*1024" is cols padded to 1024s. Its
words are `elements`, `rows` (outputs), `cols` (inputs) of the weight, the scheme's options, and `<option>_bits` of an
option that names a dtype.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from typing import Any, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS, dtype_name, nbytes
from memcalc.errors import fault, nearest_names, shorten
from memcalc.packing import Packing
from memcalc.presets import find

Spec = str | Mapping[str, Any]
COMPUTE = "compute"  # the dtype word for "what the model computes in"


class StoredPart(NamedTuple):
    """One tensor kept for a weight: '{}' in `name` stands for the weight's own name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parameter: bool

    @property
    def bytes(self) -> int:
        """What it takes."""
        return nbytes(math.prod(self.shape), self.dtype)


@dataclass(frozen=True)
class Scheme:
    """A storage scheme with its options settled.

    `roles` are the kinds of modules it packs, `skip` the rule for those it leaves ('head', 'outside-layers' or names),
    `skip_modules` further names from the run, `multiple_of` the sizes a weight must be a multiple of and `otherwise`
    what happens if it is not ('keep' it as it is, or 'refuse'). `upcast` asks for peft's k-bit preparation, which casts the
    rest of a `prepared` library's model. `exact_class`: only plain nn.Linear modules are packed. `packing` is how the library
    computes with what it has packed, `untrained` who refuses to train adapters over that, and where ('': nobody).
    """

    name: str
    library: str
    roles: tuple[str, ...]
    skip: str | tuple[str, ...]
    options: Mapping[str, int | str | bool]
    parts: tuple[Mapping[str, Any], ...]
    multiple_of: Mapping[str, str | int] = field(default_factory=dict)
    otherwise: str = "keep"
    skip_modules: tuple[str, ...] = ()
    own_skips: bool = True
    upcast: bool = False
    prepared: bool = True
    exact_class: bool = False
    packing: Packing = Packing("dequantize")
    untrained: str = ""

    def stores(
        self, shape: tuple[int, ...], compute: str, *, transposed: bool = False
    ) -> tuple[StoredPart, ...] | None:
        """The parts a weight [rows, cols] (or experts of such) is stored as; None where it is kept as it is."""
        sizes = self._sizes(shape, transposed=transposed)
        for word, factor in self.multiple_of.items():
            if sizes[word] % _evaluate(factor, sizes):
                if self.otherwise == "keep":
                    return None
                raise fault("quantize", f"{self.name} needs {word} divisible by {_evaluate(factor, sizes)}; a weight of "
                                        f"shape {shape} is not")  # fmt: skip
        return tuple(_part(rule, sizes, self.options, compute, shape[:-2]) for rule in self.parts if self._holds(rule))

    def _sizes(self, shape: tuple[int, ...], *, transposed: bool) -> dict[str, int]:
        rows, cols = shape[-2:]
        if transposed:
            rows, cols = cols, rows
        sizes = {"elements": math.prod(shape), "rows": rows, "cols": cols}
        for key, value in self.options.items():
            if isinstance(value, str):
                sizes[f"{key}_bits"] = BITS[dtype_name(value)]
            else:
                sizes[key] = cols if value == -1 else int(value)
        return sizes

    def _holds(self, rule: Mapping[str, Any]) -> bool:
        return all(
            self.options[key] in (wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in rule.get("when", {}).items()
        )


def scheme(spec: Spec) -> Scheme:
    """The scheme a run names, by preset or alias, with options changed; RunInvalid names an option it does not have."""
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise fault("quantize.name", "is required: nf4, nf4-double, int8, gptq …")
    card = _card(name)
    skip_modules = _names(given.pop("skip_modules", None))
    upcast = bool(given.pop("upcast", False))
    experts = bool(given.pop("experts", False))
    roles = (*card["roles"], "expert") if experts and "expert" not in card["roles"] else tuple(card["roles"])
    return Scheme(
        card["id"], card["library"], roles,
        card["skip"] if isinstance(card["skip"], str) else tuple(card["skip"]),
        _options(card, given), tuple(card["parts"]), card.get("multiple_of", {}), card.get("otherwise", "keep"),
        skip_modules or (), skip_modules is None or bool(card.get("always_skips")), upcast, card.get("upcast", True),
        card.get("exact_class", False), _packing(card), card.get("untrained", ""),
    )  # fmt: skip


def _packing(card: Mapping[str, Any]) -> Packing:
    return Packing(
        card.get("product", "dequantize"), bool(card.get("saves_input")), bool(card.get("keeps_weight")), card.get("copies", 0),
        bool(card.get("parametrized")), card.get("own_layers", ""), card.get("casts", "sum"),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _card(name: str) -> dict[str, Any]:
    card = find("quantizations", name)
    if "extends" not in card:
        return card
    base = _card(card["extends"])
    return {**base, **card, "options": {**base.get("options", {}), **card.get("options", {})}}


def _options(card: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int | str | bool]:
    """Every option of the preset, as given in the run or at its default."""
    rules: Mapping[str, Any] = card.get("options", {})
    synonyms = card.get("synonyms", {})
    settled = {key: rule["default"] if isinstance(rule, dict) else rule for key, rule in rules.items()}
    for word, value in given.items():
        key = synonyms.get(word, word)
        if key not in rules:
            known = [*rules, *synonyms, "skip_modules", "upcast", "experts"]
            near = nearest_names(str(word), known) or known
            raise fault(f"quantize.{shorten(str(word))}", f"{card['id']} has no such option; it has {', '.join(near)}")
        settled[key] = _checked(f"quantize.{word}", settled[key], value, rules[key])
    return settled


def _checked(where: str, default: int | str | bool, value: Any, rule: Any) -> int | str | bool:  # noqa: ANN401
    if value is None:
        value = -1 if isinstance(default, int) else default
    choices = rule.get("choices") if isinstance(rule, dict) else None
    if isinstance(default, str):
        try:
            value = dtype_name(value)
        except ValueError as error:
            raise fault(where, str(error)) from error
    elif type(value) is not type(default) or (
        isinstance(value, int) and not isinstance(value, bool) and value in (0, -2)
    ):
        raise fault(
            where, f"{shorten(repr(value))} is not {'true or false' if isinstance(default, bool) else 'a size'}"
        )
    if choices and value not in choices:
        raise fault(where, f"{value} is not supported; one of {', '.join(map(str, choices))}")
    return value  # type: ignore[no-any-return]


def _names(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(map(str, value))  # type: ignore[call-overload]


def _part(
    rule: Mapping[str, Any],
    sizes: Mapping[str, int],
    options: Mapping[str, Any],
    compute: str,
    leading: tuple[int, ...],
) -> StoredPart:
    dtype = compute if rule["dtype"] == COMPUTE else str(options.get(rule["dtype"], rule["dtype"]))
    per_matrix = any(word in str(size) for size in rule["shape"] for word in ("rows", "cols"))
    shape = tuple(_evaluate(size, sizes) for size in rule["shape"])
    return StoredPart(
        rule["name"], dtype_name(dtype), (*leading, *shape) if per_matrix else shape, bool(rule.get("parameter"))
    )


def _evaluate(size: str | int, sizes: Mapping[str, int]) -> int:
    first, *rest = re.split(r"([*/])", str(size))
    value = _word(first, sizes)
    for sign, word in zip(rest[::2], rest[1::2], strict=True):
        factor = _word(word, sizes)
        value = value * factor if sign == "*" else -(-value // factor)
    return value


def _word(word: str, sizes: Mapping[str, int]) -> int:
    return int(word) if word.isdecimal() else sizes[word]
