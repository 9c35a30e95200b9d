"""The `quantization_config` of a config.json, or of a model loaded by transformers, in the words of a run's `quantize`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from memcalc.presets import find, has

# quant_method -> (scheme, {its key: ours})
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "gptq": ("gptq", {"bits": "bits", "group_size": "group_size"}),
    "awq": ("awq", {"bits": "bits", "group_size": "group_size", "modules_to_not_convert": "skip_modules"}),
    "hqq": ("hqq", {"nbits": "bits", "group_size": "group_size", "skip_modules": "skip_modules"}),
    "mxfp4": ("mxfp4", {"modules_to_not_convert": "skip_modules"}),
    "fp8": ("fp8", {"modules_to_not_convert": "skip_modules"}),
    "fbgemm_fp8": ("fbgemm-fp8", {"modules_to_not_convert": "skip_modules"}),
    "eetq": ("eetq", {"modules_to_not_convert": "skip_modules"}),
    "quanto": ("quanto-int8", {"modules_to_not_convert": "skip_modules"}),
}
_BNB_4BIT = {
    "bnb_4bit_use_double_quant": "double",
    "bnb_4bit_quant_storage": "storage",
    "llm_int8_skip_modules": "skip_modules",
}


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A `quantize` section from a `quantization_config`; None where no scheme stands for it, or it is dequantised."""
    if config.get("dequantize"):
        return None
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        return {"name": str(config.get("bnb_4bit_quant_type") or "fp4"), **_renamed(config, _BNB_4BIT)}
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        return {"name": "int8", **_renamed(config, {"llm_int8_skip_modules": "skip_modules"})}
    method = str(config.get("quant_method") or "").lower()
    algorithm = str(config.get("quant_algo") or "").upper()
    if method == "torchao":
        return _torchao(_section(_section(config, "quant_type"), "default"))
    if method in ("modelopt", "modelopt_fp4") or (algorithm and not method):
        return _modelopt(config, algorithm)
    if method not in _METHODS or (method == "quanto" and config.get("weights", "int8") not in ("int8", "float8")):
        return None
    name, keys = _METHODS[method]
    inner = _section(_section(config, "quant_config"), "weight_quant_params") if method == "hqq" else {}
    section = {"name": name, **_renamed({**config, **inner}, keys)}
    block = config.get("weight_block_size")
    if method == "fp8" and isinstance(block, (list, tuple)) and block:
        return {**section, "block_size": block[0]}
    return section


def _torchao(kind: Mapping[str, Any]) -> dict[str, Any] | None:
    """A section for a torchao config, {_type: Int8WeightOnlyConfig, _data: {…}}; None for a class that has no scheme."""
    name = str(kind.get("_type") or "").lower()
    if not name or not has("quantizations", name):
        return None
    size = _section(kind, "_data").get("group_size")
    sized = {"group_size": size} if isinstance(size, int) and name.startswith("int4") else {}
    return {"name": find("quantizations", name)["id"], **sized}


# NVIDIA ModelOpt's names of algorithms; MIXED_PRECISION names one for each module, which no single scheme stands for
_ALGORITHMS = {"NVFP4": "nvfp4", "FP8": "fp8-per-tensor"}


def _modelopt(config: Mapping[str, Any], algorithm: str) -> dict[str, Any] | None:
    """A section for ModelOpt's `quant_algo`, whose excluded modules are written with stars."""
    if algorithm not in _ALGORITHMS:
        return None
    written = config.get("exclude_modules") or config.get("ignore") or []
    left = written if isinstance(written, (list, tuple)) else [written]
    size = {"group_size": config["group_size"]} if algorithm == "NVFP4" and config.get("group_size") else {}
    return {
        "name": _ALGORITHMS[algorithm],
        **size,
        **({"skip_modules": [_pattern(str(name)) for name in left]} if left else {}),
    }


def _pattern(name: str) -> str:
    """A name with stars as the regular expression that skipped modules are given by."""
    return re.escape(name).replace(r"\*", ".*") if "*" in name else name


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = config.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _renamed(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for theirs, ours in keys.items() if config.get(theirs) is not None}
