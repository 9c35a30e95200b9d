"""Shorthands of a run file written out: `checkpointing: full` is {mode: full}, `lora: 16` is {rank: 16}."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcalc.run.meant import COUNTS, SAME, STRATEGIES, apart, count, plain, word

if TYPE_CHECKING:
    from collections.abc import Mapping

# what a bare word or number means where a mapping may stand
SHORTHAND = {"checkpointing": "mode", "loss": "kind", "sharding": "strategy", "lora": "rank"}
LISTS = ("train", "freeze", "companions")  # one item may stand for a list of one
# words for "not at all" that YAML turns into false or null, and what they mean for these keys
ABSENT = {
    "precision": "fp32",
    "optimizer": "none",
    "checkpointing": "none",
    "sharding": "none",
    "offload": "none",
    "lora": None,
    "quantize": None,
}
ALWAYS = {"checkpointing": "full", "lora": {}}  # what `true` means

# DeepSpeed's stages in the words of those who call it: ZeRO-2, deepspeed_stage_3_offload
_STAGE = re.compile(r"(?:deepspeed)?(?:zero)?(?:stage)?([0-3])(offload)?")


def spelled_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with its shorthands written out; keys are left as they are, unknown ones too."""
    run = apart({key: _long(key, value) for key, value in given.items()})
    sharding = run.get("sharding")
    if isinstance(sharding, dict):
        run["sharding"] = _with_options(sharding)
    return run


def _long(key: str, value: object) -> object:
    if key in LISTS:
        return _listed(key, value)
    if key == "image_size":
        return _sides(value)
    if value is True and key in ALWAYS:
        value = ALWAYS[key]
    if key in ABSENT and (value is None or value is False or value in ("none", "no", "off")):
        value = ABSENT[key]
    if isinstance(value, str):
        value = word(key, value) if key in SAME else count(key, value) if key in COUNTS else value
    if key in SHORTHAND and isinstance(value, (str, int, float)):
        return {SHORTHAND[key]: value}
    if (
        key in ("gpu", "model", "precision", "quantize")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        return str(value)
    return str(value) if key == "margin" and isinstance(value, float) else value


def _sides(value: object) -> object:
    """[height, width] of one side, or of sides written as 768x1024."""
    if isinstance(value, str) and (sides := re.fullmatch(r"\s*(\d+)(?:\s*[x×]\s*(\d+))?\s*", value)):  # noqa: RUF001 - a sign for times
        return [int(sides[1]), int(sides[2] or sides[1])]
    return value if isinstance(value, (list, tuple, str)) or value is None else [value, value]


def _listed(key: str, value: object) -> object:
    """A list, also where one item or a word for nothing stands for it; a companion's bare word is its role."""
    if value is None or value is False or value == "none":
        return ()
    if isinstance(value, (str, dict)):
        value = [value]
    if key == "companions" and isinstance(value, (list, tuple)):
        return [{"role": item} if isinstance(item, str) else _companion(item) for item in value]
    return value


def _companion(item: Any) -> Any:  # noqa: ANN401 - whatever was written
    """A companion with its adapters written out: one that has some learns."""
    if not isinstance(item, dict) or "lora" not in item:
        return item
    lora = _long("lora", item["lora"])
    return {**item, "lora": lora, **({"trainable": True} if lora is not None else {})}


def _with_options(sharding: dict[str, Any]) -> dict[str, Any]:
    """{strategy, options}: every other key is an option in the framework's own words."""
    own = {"strategy", "options"}
    strategy, implied = _strategy(sharding.get("strategy", "none"))
    options = {**implied, **(sharding.get("options") or {}), **{k: v for k, v in sharding.items() if k not in own}}
    return {"strategy": strategy, "options": options}


def _strategy(written: object) -> tuple[object, dict[str, Any]]:
    """(a strategy by its own name, the options that the word implies); unknown words are left as they are."""
    bare = plain(written) if isinstance(written, str) else ""
    stage = _STAGE.fullmatch(bare)
    if bare in STRATEGIES:
        return STRATEGIES[bare]
    if stage is None or bare.isdigit():
        return (bare if bare in ("none", "ddp", "fsdp", "hsdp", "megatron") else written), {}
    moved = ("offload_optimizer", *(("offload_param",) if stage[1] == "3" else ())) if stage[2] else ()
    return f"zero{stage[1]}", {section: {"device": "cpu"} for section in moved}
