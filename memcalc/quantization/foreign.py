"""The `quantization_config` of a config.json, or of a model loaded by transformers, in the words of a run's `quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    if method not in _METHODS or (method == "quanto" and config.get("weights", "int8") not in ("int8", "float8")):
        return None
    name, keys = _METHODS[method]
    inner = (config.get("quant_config") or {}).get("weight_quant_params", {}) if method == "hqq" else {}
    section = {"name": name, **_renamed({**config, **inner}, keys)}
    block = config.get("weight_block_size")
    return {**section, "block_size": block[0]} if method == "fp8" and block else section


def _renamed(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for theirs, ours in keys.items() if config.get(theirs) is not None}
