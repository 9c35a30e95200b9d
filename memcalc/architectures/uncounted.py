"""What a config.json may ask its class for that is not counted.

A card of presets/architectures lists such keys under `uncounted`; all of them are off by default. Where a config sets one,
the report says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.presets import find, has

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.dimensions import Dimensions

UNCOUNTED = {
    "add_cross_attention": "the layers that would read another sequence, and their parameters, are not counted",
    "chunk_size_feed_forward": "feed-forward layers that run in chunks of tokens are counted as if they ran in one",
    "output_router_logits": "the loss that balances experts, and the routers' logits that it reads, are not counted",
    "swiglu_limits": "experts whose gates are clamped are counted as if they were not",
    "swiglu_limits_shared": "shared experts whose gates are clamped are counted as if they were not",
    "use_mems_train": "the memories that every layer leaves behind are not counted",
}


def uncounted(c: Dimensions, where: str = "model") -> Iterator[tuple[str, str]]:
    """(path, what is not counted) of each such key that the config sets, those of nested configs included."""
    model_type = str(c.get("model_type") or "")
    card = find("architectures", model_type) if has("architectures", model_type) else {}
    for key in card.get("uncounted", ()):
        value = c.get(key)
        if any(value) if isinstance(value, list) else value:  # a number for each layer
            yield f"{where}.{key}", UNCOUNTED[key]
    for name, inner in c.nested_configs():
        yield from uncounted(inner, f"{where}.{name}")
