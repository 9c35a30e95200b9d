"""Recipe: the dtypes that weights, master copies, gradients and optimizer states are kept in, and computed in.

The bytes per parameter that people argue about are rows of presets/precisions, each with its source and its names in
the frameworks' words; a run may name one, or override parts of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from memcalc import presets
from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS, dtype_name
from memcalc.errors import Fault, RunInvalid, UnknownName, fault, nearest_names, shorten

DEFAULT: Final = "mixed-bf16"
FLOATS: Final = frozenset({"fp64", "fp32", "fp16", "bf16", "fp8"})
PARAM: Final = "param"

# the words of a run file -> the fields they override
_KEYS: Final = {
    "weights": "weights", "master_weights": "master", "gradients": "gradients", "optimizer_states": "states",
    "compute": "compute", "frozen": "frozen", "autocast": "autocast", "autocast_cache": "autocast_cache",
}  # fmt: skip
_OPTIONAL: Final = frozenset({"master", "autocast"})
_NOTHING: Final = frozenset({"", "no", "none", "off", "false"})


@dataclass(frozen=True)
class Recipe:
    """Dtypes, by the short names of `memcalc.dtypes`; '' where there is no such copy.

    `states` is the dtype the optimizer takes its parameter to have: 'param' is that of what it updates, the master copy
    where there is one. `master_gradients` is a second, wider copy of the gradients, made for the master weights.
    `frozen` is the storage of weights that are not trained, `compute` the dtype of activations. Under `autocast` with
    `autocast_cache`, each wider linear weight gets a copy in the autocast dtype.
    """

    name: str
    weights: str
    master: str = ""
    gradients: str = "fp32"
    states: str = PARAM
    compute: str = "fp32"
    frozen: str = "fp32"
    autocast: str = ""
    autocast_cache: bool = False
    master_gradients: str = ""
    title: str = ""
    notes: tuple[str, ...] = ()
    source: str = ""

    @property
    def optimizer_dtype(self) -> str:
        """The dtype the optimizer takes an ordinary parameter to have."""
        return self.states if self.states != PARAM else self.master or self.weights

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes that an Adam with two states keeps per trained parameter, gradients included."""
        kept = (self.weights, self.master, self.gradients, self.master_gradients, *[self.optimizer_dtype] * 2)
        return sum(BITS[dtype] for dtype in kept if dtype) // 8


def recipe(spec: str | int | bool | Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, or a mapping of overrides over one: {recipe: bf16, optimizer_states: fp32}.

    None is the default, False ("mixed precision: no") fp32, 16 and 32 Lightning's. UnknownName names the nearest
    recipe; RunInvalid lists every key and dtype that is wrong, as `precision.<key>`.
    """
    if isinstance(spec, Mapping):
        return _overridden(spec)
    if spec is None or spec is False:
        return _named(DEFAULT if spec is None else "fp32")
    if isinstance(spec, bool) or not isinstance(spec, str | int):
        raise fault("precision", f"{shorten(repr(spec))} is neither a recipe's name nor a mapping; write {DEFAULT}")
    return _named(str(spec))


def says_frozen(spec: object) -> bool:
    """Whether a run's precision says itself what is kept of weights that do not learn: {recipe: amp-fp16, frozen: fp16}."""
    return isinstance(spec, Mapping) and "frozen" in spec


def _named(name: str) -> Recipe:
    wanted = name.strip().lower().removeprefix("torch.")
    dashed = wanted.replace("_", "-").replace(" ", "-")
    found = next((n for n in (wanted, dashed) if presets.has("precisions", n)), wanted)
    if not presets.has("precisions", found) and presets.has("quantizations", wanted):
        base = f"memcalc schema run; as what a frozen base is stored in: quantize: {wanted}, with lora"
        raise UnknownName(presets.SINGULAR["precisions"], name, presets.index()["precisions"], base)
    card = presets.find("precisions", found)
    autocast = card.get("autocast", "")
    return Recipe(
        name=card["id"],
        weights=card["weights"],
        master=card.get("master", ""),
        gradients=card["gradients"],
        states=card["states"],
        compute=card["compute"],
        frozen=card["compute"],
        autocast=autocast,
        autocast_cache=bool(autocast) and BITS[card["weights"]] > BITS[autocast],
        master_gradients=card.get("master_gradients", ""),
        title=card["title"],
        notes=tuple(card.get("notes", ())),
        source="; ".join(card["source"]),
    )


def _overridden(spec: Mapping[str, Any]) -> Recipe:
    base = spec.get("recipe", DEFAULT)
    if isinstance(base, Mapping):
        raise fault("precision.recipe", f"a recipe is named, not nested; write {DEFAULT}")
    made = recipe(base)
    read = [_change(key, value) for key, value in spec.items() if key != "recipe"]
    faults = [item for item in read if isinstance(item, Fault)]
    if faults:
        raise RunInvalid(faults)
    changes = dict(item for item in read if not isinstance(item, Fault))
    return _consistent(replace(made, **changes), changes)


def _change(key: object, value: object) -> tuple[str, Any] | Fault:
    """The field an override changes and its new value, or what is wrong with it."""
    try:
        field = _field(key)
        return field, _dtype(field, value)
    except ValueError as error:
        return Fault(f"precision.{shorten(str(key))}", str(error))


def _field(key: object) -> str:
    """The field a key of the mapping stands for; ValueError names the nearest key."""
    field = _KEYS.get(str(key))
    if field is None:
        near = ", ".join(nearest_names(str(key), _KEYS) or ["recipe", *_KEYS])
        raise ValueError(f"no such key; nearest: {near}")
    return field


def _dtype(field: str, value: object) -> Any:  # noqa: ANN401 - a dtype's name, or a flag
    if field == "autocast_cache":
        if not isinstance(value, bool):
            raise ValueError(f"{shorten(repr(value))} is neither true nor false")
        return value
    nothing = value is None or value is False or str(value).lower() in _NOTHING
    if nothing and field in _OPTIONAL:
        return ""
    if field == "states" and value == PARAM:
        return PARAM
    if nothing or isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{shorten(repr(value))} is no dtype; write fp32, bf16 or fp16")
    return _float(str(value))


def _float(text: str) -> str:
    name = dtype_name(shorten(text))
    name = "fp32" if name == "tf32" else name
    if name not in FLOATS:
        raise ValueError(f"nothing is trained in {name}; write one of {', '.join(sorted(FLOATS))}")
    return name


def _consistent(made: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """What follows from the overrides: no master copy of weights as wide, frozen weights in the compute dtype."""
    if made.master and BITS[made.weights] >= BITS[made.master]:
        made = replace(made, master="")
    if not made.master:
        made = replace(made, master_gradients="")
    if "compute" in changes and "frozen" not in changes:
        made = replace(made, frozen=made.compute)
    if "autocast_cache" not in changes:
        made = replace(made, autocast_cache=bool(made.autocast) and BITS[made.weights] > BITS[made.autocast])
    return made if not changes else replace(made, name=f"{made.name}, adapted")
