"""Dimensions: the keys of a config.json over the defaults of its config class, read as attributes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from memcalc.errors import Fault, RunInvalid, nearest_names, shorten
from memcalc.traits import NONE, Traits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGEST = 10**12  # of one dimension; beyond it is a typing error, not a model
ALIKE = 0.85  # as difflib measures it: one letter of seven
DEEPEST = 10_000  # layers, or experts or groups of them


class Dimensions:
    """`c.hidden_size` is the config's value, else its class default; `attribute_map` names resolve both ways.

    A key that is neither given nor defaulted, or whose value is of another type than the default's, raises RunInvalid
    naming it. `c.get(key, fallback)` is for keys that may be absent. Mappings come back as Dimensions of their own.
    `c.traits` are of the class: no key of a config.json is among them.
    """

    __slots__ = ("_aliases", "_defaults", "_given", "_read", "_source", "_sub", "traits")

    def __init__(
        self,
        given: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
        sub: Mapping[str, Dimensions] | None = None,
        source: str = "the model",
        traits: Traits = NONE,
    ) -> None:
        self._given, self._defaults, self._aliases = dict(given), dict(defaults or {}), dict(aliases or {})
        self._sub, self._source, self.traits = dict(sub or {}), source, traits
        self._read: set[str] = set()

    def __getattr__(self, key: str) -> Any:  # noqa: ANN401 - a config's values are of every type
        if key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        if key in self._sub:
            return self._sub[key]
        found, value = self._find(key)
        if not found:
            near = nearest_names(key, self._given)
            hint = f" (it has {', '.join(near)})" if near else ""
            raise RunInvalid([Fault(self._where(key), f"the key is missing and has no default{hint}")], self._source)
        return value

    def __contains__(self, key: str) -> bool:
        return key in self._sub or self._find(key)[0]

    def gives(self, key: str) -> bool:
        """Whether the config itself has a key, rather than its class."""
        return self._given.get(key) is not None

    def get(self, key: str, fallback: Any = None) -> Any:  # noqa: ANN401
        """The value of a key, or `fallback` where it is absent or null."""
        if key not in self:
            return fallback
        value = self[key]
        return fallback if value is None else value

    def nested(self, key: str) -> Dimensions:
        """The mapping under a key, its keys over those of the default mapping there."""
        inner, default = self._find(key)[1], self._defaults.get(key)
        return Dimensions(inner or {}, default or {}, source=self._source)

    def nested_configs(self) -> Iterable[tuple[str, Dimensions]]:
        """The configs nested in this one, by their keys."""
        return self._sub.items()

    def given(self) -> dict[str, Any]:
        """What was written, without the defaults."""
        return dict(self._given)

    def known(self) -> dict[str, Any]:
        """What was written, over the defaults; sub-configs as they were written."""
        return {**self._defaults, **self._given}

    def but(self, **changes: Any) -> Dimensions:  # noqa: ANN401
        """The same with some keys changed."""
        given = {**self._given, **changes}
        made = Dimensions(given, self._defaults, self._aliases, self._sub, self._source, self.traits)
        made._read = self._read
        return made

    def misspelt(self, keys: Iterable[str]) -> dict[str, str]:
        """Of `keys` those that nothing has read, each with the key that was read instead and reads nearly like it."""
        from difflib import get_close_matches  # noqa: PLC0415 - few keys are typed by hand

        read = {*self._read, *self._defaults, *self._aliases, *self._sub}
        near = {key: get_close_matches(key, read - set(keys), n=1, cutoff=ALIKE) for key in keys if key not in read}
        return {key: names[0] for key, names in near.items() if names}

    def _find(self, key: str) -> tuple[bool, Any]:
        self._read.add(key)
        alias = self._aliases.get(key)
        names = (key, alias) if alias else (key, *(k for k, v in self._aliases.items() if v == key))
        for name in names:
            if name in self._given:
                return True, self._checked(name, self._given[name])
        for name in names:
            if name in self._defaults:
                return True, self._defaults[name]
        return False, None

    def _checked(self, key: str, value: Any) -> Any:  # noqa: ANN401
        """The value, refused where it can't be what the class's default is."""
        default = self._defaults.get(key)
        if isinstance(default, bool) and not isinstance(value, (bool, list)) and value is not None:
            raise self._wrong(key, value, "true or false")
        if isinstance(default, int) and not isinstance(default, bool) and value is not None:
            return self._whole(key, value)
        if isinstance(value, list) and key in _DEPTHS:
            return self._whole(key, value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        if isinstance(value, int) and not isinstance(value, bool):
            return self._whole(key, value)
        return value

    def _whole(self, key: str, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, list) and not key.endswith("_per_tok"):  # some configs give a size per axis or per layer
            return [self._whole(key, item) if type(item) in (int, list) else item for item in value]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        size = key.endswith(("_size", "_layers", "_heads", "_dim", "_dim_", "n_embd", "n_layer", "n_head", "_experts"))
        if (size and value < 0) or (key in _POSITIVE and value < 1) or abs(value) > LARGEST:
            raise self._wrong(key, value, "a positive whole number below 10^12")
        if (key.endswith(("_layers", "n_layer")) or key in _DEPTHS) and value > DEEPEST:
            raise self._wrong(key, value, f"a number of layers up to {DEEPEST:,}")
        if key.endswith(("_experts", "_groups", "_group_num")) and value > DEEPEST:
            raise self._wrong(key, value, f"a whole number up to {DEEPEST:,}")
        return value

    def _where(self, key: str) -> str:
        return f"model.{key}"

    def _wrong(self, key: str, value: Any, wanted: str) -> RunInvalid:  # noqa: ANN401
        return RunInvalid([Fault(self._where(key), f"{shorten(repr(value))} is not {wanted}")], self._source)


_DEPTHS = frozenset({"depth", "depths", "layers_per_block", "transformer_layers_per_block", "num_block_repeats",
                     "num_stages", "num_encoder_blocks", "iou_head_depth", "num_point_embeddings", "num_multimask_outputs",
                     "reverse_transformer_layers_per_block"})  # fmt: skip

_POSITIVE = frozenset({"hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "n_embd", "n_layer",
                       "n_head", "d_model", "intermediate_size", "num_key_value_heads", "head_dim", "n_layers", "num_layers",
                       "n_heads", "num_heads"})  # fmt: skip
