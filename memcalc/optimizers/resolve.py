"""From what a user writes to an Optimizer: ids, aliases, the Trainer's names, class paths, mappings with options."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from memcalc import presets
from memcalc.errors import Fault, RunInvalid, UnknownName, nearest_names, shorten
from memcalc.optimizers.optimizer import Optimizer
from memcalc.optimizers.options import settle
from memcalc.optimizers.step import StepRules
from memcalc.optimizers.terms import holds
from memcalc.optimizers.values import Advice, Option, Scene

_WAYS = frozenset({"fused", "foreach"})  # words for how torch steps, beside an optimizer's name
_BITS = re.compile(r"([0-9]+)[-_ ]bit")
DEFAULT = "adamw"  # whose settings a mapping changes that names none

SHORT_PACKAGES = {"bnb": "bitsandbytes", "te": "transformer_engine", "optim": "torch.optim", "ao": "torchao"}


def resolve(spec: str | Mapping[str, object]) -> Optimizer:
    """The optimizer a name or a mapping asks for.

    UnknownName where there is no such preset; RunInvalid with every fault where an option, an implementation, a library
    or a value is wrong, each as `optimizer.<key>`.
    """
    if isinstance(spec, str):
        return _by_name(spec.strip())
    try:
        return _by_text(json.dumps(spec))
    except (TypeError, ValueError):  # values that JSON doesn't have
        return _by_mapping(spec)


@lru_cache(maxsize=512)
def _by_text(text: str) -> Optimizer:
    return _by_mapping(json.loads(text))


def _by_mapping(spec: Mapping[str, object]) -> Optimizer:
    given = {str(key): value for key, value in spec.items()}
    name = given.pop("name", DEFAULT)
    if not isinstance(name, str) or not name.strip():
        raise RunInvalid([Fault("optimizer.name", "it is no text; write the name of an optimizer, such as adamw")])
    return _build(name.strip(), given)


@lru_cache(maxsize=128)
def _by_name(name: str) -> Optimizer:
    return _build(name, {})


def _build(name: str, given: dict[str, Any]) -> Optimizer:
    card, implied = _find(name)
    settings = {**implied, **given}
    faults: list[Fault] = []
    card, variant = _variant(card, settings.pop("library", None), faults)
    implementation = _implementation(variant, _named_implementation(settings, variant), faults)
    nominal = _nominal(settings.pop("bytes_per_parameter", None), faults)
    options, wrong = settle({"in_backward": False, **(variant.get("options") or {})}, settings)
    if faults or wrong:
        raise RunInvalid([*faults, *wrong], f"the optimizer {card['id']}")
    return _optimizer(card["id"], variant, implementation, options, nominal, frozenset(settings))


def _optimizer(
    name: str,
    variant: Mapping[str, Any],
    implementation: str,
    options: dict[str, Option],
    nominal: float | None,
    given: frozenset[str],
) -> Optimizer:
    scene = Scene(None, options, implementation=implementation)
    step = (variant.get("step") or {}).get(implementation) or {}
    return Optimizer(
        name=name,
        library=variant.get("library", ""),
        version=str(variant.get("version", "")),
        implementation=implementation,
        options=options,
        state_rules=tuple(variant.get("states") or ()),
        group_rules=tuple(variant.get("group") or ()),
        shared_rules=tuple(variant.get("once") or ()),
        step_rules=StepRules(**{key: tuple(rules) for key, rules in step.items()}),
        sizes=variant.get("sizes") or {},
        conditions=variant.get("conditions") or {},
        accepts=variant.get("accepts") or {},
        from_model={k: v["from_model"] for k, v in (variant.get("options") or {}).items() if _has(v, "from_model")},
        keeps_master=_flag(variant.get("keeps_master", False), scene),
        frees_gradients=options["in_backward"] is True or _flag(variant.get("frees_gradients", False), scene),
        bytes_per_parameter=nominal,
        given=given,
        advice=Advice(**(variant.get("advice") or {})),
        source=variant.get("source", ""),
    )


def _has(spec: Any, key: str) -> bool:  # noqa: ANN401
    return isinstance(spec, Mapping) and key in spec


def _flag(rule: bool | Mapping[str, Any], scene: Scene) -> bool:
    """True or false, or a condition on the options."""
    return rule if isinstance(rule, bool) else holds(rule, scene)


def _find(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The preset of a name, and the settings that the name implies."""
    key, worded = _known(name.lower())
    card = _card(key)
    aliases = card.get("aliases") or {}
    implied = (
        next((v for k, v in aliases.items() if str(k).lower() == key), None) if isinstance(aliases, Mapping) else None
    )
    return card, {**(implied or {}), **worded}


def _known(name: str) -> tuple[str, dict[str, Any]]:
    """The alias that a name spells, and what it says besides: `fused AdamW`, `8bit_adamw`; the name where there is none."""
    if presets.has("optimizers", name):
        return name, {}
    key = _class_path(name)
    if key is not None:
        return key, {}
    words = _words(name) if "=" not in name else frozenset()  # arguments of a call are none of these
    ways = words & _WAYS
    key = next(
        (known for known in presets.index().get("optimizers", {}) if _words(known) in (words, words - ways)), None
    )
    if key is None:
        return name, {}
    way = next(iter(ways - _words(key)), None)
    return key, {"implementation": way} if way else {}


def _words(name: str) -> frozenset[str]:
    """The words of a name in no order; a number of bits apart from its neighbours."""
    return frozenset(re.findall(r"[0-9]+bit|[a-z]+(?:[0-9]+(?!bit)[a-z]*)*|[0-9.]+", _BITS.sub(r"\1bit", name)))


@lru_cache(maxsize=128)
def _card(name: str) -> dict[str, Any]:
    """A preset, with what it takes over from the one it is `like`: all it does not say itself, and other defaults."""
    card = presets.find("optimizers", name)
    return _like(card) if "like" in card else card


def _like(card: Mapping[str, Any]) -> dict[str, Any]:
    base = _card(card["like"])
    inherited = {key: value for key, value in base.items() if key not in {"aliases", "advice", "id"}}
    return {**inherited, **card, "options": _redefault(base.get("options") or {}, card.get("options") or {})}


def _redefault(declared: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The declared options with other defaults, and those added."""
    merged = dict(declared)
    for key, value in changed.items():
        keeps = _has(declared.get(key), "default") and not isinstance(value, Mapping)
        merged[key] = {**declared[key], "default": value} if keeps else value
    return merged


def _class_path(name: str) -> str | None:
    """The alias that means the same class: `bnb.optim.AdamW8bit`, `torch.optim.adamw.AdamW`, `AdamW_8bit`."""
    package, _, rest = name.partition(".")
    full = f"{SHORT_PACKAGES.get(package, package)}.{rest}" if rest else name
    known = presets.index().get("optimizers", {})
    if full in known:
        return full
    if rest:
        ends = full.split(".")[0], full.split(".")[-1]
        return next((k for k in known if "." in k and (k.split(".")[0], k.split(".")[-1]) == ends), None)
    plain = name.replace("_", "-").replace(" ", "-")
    squeezed = plain.replace("-", "")
    return (
        plain if plain in known else next((k for k in known if k.replace("-", "").replace("_", "") == squeezed), None)
    )


def _variant(
    card: dict[str, Any],
    library: Any,  # noqa: ANN401
    faults: list[Fault],
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The preset as the wanted library has it: itself, one of its `variants`, or the preset a variant points to."""
    variants = card.get("variants") or {}
    if library is None or _same(library, card.get("library", "")):
        return card, card
    key = next((known for known in variants if _same(library, known)), None)
    if key is None:
        known = [card.get("library", ""), *variants]
        near = nearest_names(str(library), known) or known
        faults.append(
            Fault("optimizer.library", f"{shorten(repr(library))} has no {card['id']}; there is {', '.join(near)}")
        )
        return card, card
    variant = variants[key]
    if isinstance(variant, str):
        pointed = _card(variant)
        return pointed, pointed
    if "like" in variant:
        variant = _like(variant)
    return card, {"library": key, "advice": card.get("advice"), **variant}


def _same(library: Any, known: str) -> bool:  # noqa: ANN401
    return isinstance(library, str) and library.lower().replace("_", "-") == known.lower().replace("_", "-")


def _named_implementation(settings: dict[str, Any], variant: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The implementation asked for: by its name, or as torch's constructors say it (`fused: true`, `foreach: false`)."""
    known, wanted = variant.get("step") or {}, settings.pop("implementation", None)
    flags = {
        flag: settings.pop(flag)
        for flag in ("fused", "foreach")
        if flag not in (variant.get("options") or {}) and flag in settings
    }
    if wanted is None and True in flags.values():
        return next(flag for flag, value in flags.items() if value is True)
    if wanted is None and flags.get("foreach") is False and "for-loop" in known:
        return "for-loop"
    return wanted


def _implementation(variant: Mapping[str, Any], wanted: Any, faults: list[Fault]) -> str:  # noqa: ANN401
    known = list(variant.get("step") or {})
    if wanted is None:
        return known[0] if known else ""
    if wanted in known:
        return str(wanted)
    near = nearest_names(str(wanted), known) or known or ["none to choose"]
    faults.append(Fault("optimizer.implementation", f"{shorten(repr(wanted))} is not one of {', '.join(near)}"))
    return ""


def _nominal(value: Any, faults: list[Fault]) -> float | None:  # noqa: ANN401
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1024:
        return float(value)
    faults.append(Fault("optimizer.bytes_per_parameter", f"{shorten(repr(value))} is not a number from 0 to 1024"))
    return None


__all__ = ["UnknownName", "resolve"]
