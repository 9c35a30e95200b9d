"""What a preset says of a method: its layers, its keys with the library's defaults, and what it does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.errors import Fault, nearest_names
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.spec import Lora

COMMON = ("bias", "layers", "exclude")  # keys that not every method has


def card(method: str) -> dict[str, Any]:
    """The preset of a method; of one that has none of its own (DoRA, virtual tokens), an empty one."""
    if method in ("dora", "prompt", "prefix", "p-tuning", "trainable-tokens"):
        return {}
    return find("adapters", method)


def completed(lora: Lora) -> Lora:
    """The section with the method's defaults: its size (`rank`) and its options."""
    known = card(lora.method)
    size = known.get("rank", {}).get("default")
    return replace(lora, rank=lora.rank or size, options={**known.get("options", {}), **lora.options})


def faults(lora: Lora) -> Iterator[Fault]:
    """Options the method does not know, and keys it does not have."""
    known = card(lora.method)
    options = known.get("options", {})
    for name in lora.options:
        if name not in options:
            near = nearest_names(name, list(options)) or list(options)
            more = f"; it has {', '.join(near)}" if near else "; it has none"
            yield Fault(f"lora.options.{name}", f"is no option of {lora.method}{more}")
    asked = {"bias": lora.bias != "none", "layers": lora.layers is not None, "exclude": bool(lora.exclude)}
    for word in COMMON if "has" in known else ():
        if asked[word] and word not in known["has"]:
            yield Fault(f"lora.{word}", f"{lora.method} has no such key in peft; name what is adapted in `targets`")


def integer(run: Lora, name: str) -> int:
    """An option that is a whole number."""
    return int(run.options[name] or 0)


def truth(run: Lora, name: str) -> bool:
    """An option that is a switch."""
    return bool(run.options[name])


def word(run: Lora, name: str) -> str:
    """An option that is a word."""
    return str(run.options[name])
