"""From dimensions to blocks: one small function per family, found by the `model_type` of a config.json.

`presets/architectures/<model_type>.yaml` names the module here that holds the function, and the defaults that absent
keys of its config.json mean. A function is registered for its model types by `@architecture("llama", "mistral")`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.architectures.heads import labels, problem
from memcalc.dimensions import Dimensions
from memcalc.errors import MemcalcError, RunInvalid, UnknownName, fault, shorten
from memcalc.presets import find, has, index, names
from memcalc.traits import NONE, Traits

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.model import Model

    Builder = Callable[[Dimensions], Model]

_BUILDERS: dict[str, Builder] = {}


def architecture(*model_types: str) -> Callable[[Builder], Builder]:
    """Register a function from Dimensions to Model for these model types."""

    def register(builder: Builder) -> Builder:
        _BUILDERS.update(dict.fromkeys(model_types, builder))
        return builder

    return register


def dimensions(model_type: str, given: Mapping[str, Any], source: str = "the model") -> Dimensions:
    """The keys of a config.json over its class's defaults; nested configs get the defaults of their own type."""
    card = find("architectures", model_type)
    nested = {key: _nested(spec, key, given, source) for key, spec in card.get("sub_configs", {}).items()}
    defaults = {"architectures": [card.get("class", "")], "model_type": model_type, **card.get("defaults", {})}
    traits = Traits(**card["traits"]) if "traits" in card else NONE
    return Dimensions(given, defaults, card.get("renamed", {}), nested, source, traits)


def _nested(spec: str | Mapping[str, Any], key: str, given: Mapping[str, Any], source: str) -> Dimensions:
    """The dimensions of a nested config: of the type it names, else of its card's.

    A card may write `{type: …, fixed: true, absent: {…}, flat: true}`: `fixed` where the type named in the file doesn't
    count (the library's class is given), `absent` for the values where the whole nested config is absent, `flat` where
    its keys then stand among those around it.
    """
    rule: Mapping[str, Any] = {"type": spec} if isinstance(spec, str) else spec
    written = rule.get("absent", {}) if given.get(key) is None else given[key]
    if not isinstance(written, Mapping):
        raise fault(f"model.{key}", f"{shorten(repr(written))} is not a config of its own (a mapping)")
    inner = dict(written)
    if rule.get("flat") and given.get(key) is None:
        inner = {k: v for k, v in given.items() if k not in ("architectures", "model_type")}
    if rule.get("fixed"):
        inner["model_type"] = rule["type"]
    return dimensions(str(inner.get("model_type") or rule["type"]), inner, source)


def model_of(c: Dimensions) -> Model:
    """The model of nested dimensions: a text or image tower. RunInvalid where no architecture has its type.

    The card's `registered` are Model.registered, as the class' __init__ has them, its `tp_plan`, `rate` and `units` the Model's.
    """
    card = find("architectures", c.model_type)
    _check_heads(c, whole=card.get("whole_heads", False))
    import_module(f"memcalc.architectures.{card['module']}")
    model, registered = _BUILDERS[card["id"]](c), card.get("registered")
    if plan := card.get("tp_plan") or _parts_plan(c):
        model = replace(model, tp_plan=tuple(plan.items()))
    if rate := card.get("rate"):
        model = replace(model, rate=rate)
    if units := card.get("units"):
        model = replace(model, units=units)
    if c.traits.masks_of_both and (window := c.get("sliding_window")):
        model = replace(model, masks=(0, window))
    return model if registered is None else replace(model, registered=tuple(registered))


def _parts_plan(c: Dimensions) -> Mapping[str, str]:
    """What the text part's own plan divides of a model with towers, where these have none (init_parallel_plans)."""
    plans = {key: find("architectures", part.model_type).get("tp_plan", {}) for key, part in c.nested_configs()}
    text: Mapping[str, str] = plans.pop("text_config", {})
    return {} if any(plans.values()) else text


def _check_heads(c: Dimensions, *, whole: bool) -> None:
    """RunInvalid where key and value heads are not shared evenly, or (`whole`) the class wants heads to divide the width."""
    heads, shared = c.get("num_attention_heads"), c.get("num_key_value_heads")
    if type(heads) is not int or heads < 1:
        return
    width = c.get("hidden_size") if whole else None
    if type(width) is int and width % heads:
        raise fault("model.num_attention_heads", f"the hidden size ({width}) is not a multiple of the number of attention "
                                                 f"heads ({heads})")  # fmt: skip
    latent = c.get("kv_lora_rank") is not None  # heads of their own, however many are named
    if type(shared) is int and 0 < shared < heads and heads % shared and c.gives("num_key_value_heads") and not latent:
        raise fault("model.num_key_value_heads", f"{heads} query heads can't share {shared} key/value heads evenly")


def build(model_type: str, given: Mapping[str, Any], source: str = "the model") -> Model:
    """The model that a config.json of this type describes.

    UnknownName where no architecture has the type, RunInvalid where its modules are another library's.
    """
    if model_type in ELSEWHERE:
        raise fault("model.model_type", f"{model_type}: {ELSEWHERE[model_type]}")
    if not has("architectures", model_type):
        raise UnknownName("architecture", model_type, model_types(), _OTHERWISE)
    known = dimensions(model_type, given, source)
    try:
        model = _sound(replace(model_of(known.but(model_type=model_type)), dimensions=known))
        if sought := problem(known):
            model = replace(model, problem=sought, labels=labels(known))
    except MemcalcError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise fault("model", f"these dimensions do not make a {model_type}: {error}") from error
    return model if find("architectures", model_type).get("checkpointing", True) else replace(model, checkpoints=False)


def _sound(model: Model) -> Model:
    """The model, if its tensors are made of whole numbers; a list where a number belongs shows only here."""
    for tensor in model.tensors:
        if not all(type(size) is int and size >= 0 for size in tensor.shape):
            raise ValueError(f"{tensor.name} would be {shorten(str(tensor.shape))}")
    return model


def type_of_class(name: str) -> str | None:
    """The model type whose model class is `name`, or has the same stem (LlamaForSequenceClassification -> llama)."""
    known = index().get("architectures", {})
    stem = _HEAD.sub("", name).lower()
    paths = [known[name.lower()]] if name.lower() in known else []
    paths += [path for key, path in known.items() if _HEAD.sub("", key) == stem]
    return Path(paths[0]).stem if paths else None


_HEAD = re.compile(r"(for[a-z]+|lmheadmodel|doubleheadsmodel|encodermodel|withprojection|model)+$", re.IGNORECASE)


# types whose modules another library has, and what to give in their place
_TIMM = "timm has its own modules, which are not followed; transformers' class of the same network is: vit, deit, convnext, …"
ELSEWHERE = {"timm_wrapper": _TIMM, "timm_backbone": _TIMM}

_OTHERWISE = "memcalc models --architectures; or describe the model inline, as model: {blocks: [...]}"


def model_types() -> list[str]:
    """Every model type that has an architecture."""
    return names("architectures")


__all__ = ["RunInvalid", "architecture", "build", "dimensions", "model_of", "model_types", "type_of_class"]
