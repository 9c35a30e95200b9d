"""torchtune's model builders, by the table presets/frameworks/torchtune.yaml: dimensions, LoRA, what learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.words import names, text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

_PREFIXES: Final = ("qlora_", "lora_")
_PARTS: Final = {
    "decoder": ("decoder_trainable",),
    "encoder": ("encoder_trainable", "vision_encoder_trainable"),
    "fusion": ("fusion_trainable",),
}


def builder(sheet: Sheet, *keys: str) -> str:
    """The builder's name, prefixes included: "qlora_llama2_7b"; '' where there is none."""
    return str(sheet.get(*(f"{key}._component_" for key in keys), default="")).rpartition(".")[2]


def model_of(sheet: Sheet, *keys: str, named: str = "") -> Any:  # noqa: ANN401 - a preset's name or dimensions
    """The model that a builder makes, set as `named` if given; a fault where the table does not hold it."""
    for key in keys:
        sheet.seen(key)
    if named and sheet.asked.model is not None:
        return sheet.asked.model
    table = find("frameworks", "torchtune")
    whole_name = builder(sheet, *keys)
    name = _bare(whole_name)
    found: Any = table["builders"].get(name)
    if found is None and name in table["components"]:
        found = _dimensions(sheet, table, name, *keys)
    if found is None:
        where = sheet.named(*(f"{key}._component_" for key in keys))
        sheet.fault(where, f"no preset for torchtune's builder {whole_name or 'none'}; name the model with --model")
    elif named:
        sheet.put(named, found, *(f"{key}._component_" for key in keys))
    return found


def adapters(sheet: Sheet, found: str, dtype: str, *keys: str) -> dict[str, Any] | None:
    """Set `lora` (and `quantize`) where the builder has adapters; they are of the model's own dtype."""
    if not found.startswith(_PREFIXES):
        return None
    at = next((key for key in keys if sheet.has(key)), keys[0])
    lora: dict[str, Any] = {
        "rank": sheet.read(whole, f"{at}.lora_rank", default=8),
        "alpha": sheet.get(f"{at}.lora_alpha", default=16),
        "dropout": sheet.get(f"{at}.lora_dropout", default=0.0),
        "dtype": dtype,
        "dora": sheet.read(truth, f"{at}.use_dora", default=False),
        **_targets(sheet, at),
    }
    for key, value in lora.items():
        sheet.put(f"lora.{key}", value, f"{at}.{_THEIRS.get(key, '_component_')}", default="the builder's signature")
    if found.startswith("qlora_") or sheet.read(truth, f"{at}.quantize_base", default=False):
        sheet.put("quantize", "torchao-nf4", f"{at}.quantize_base", f"{at}._component_")
    return lora


_THEIRS: Final = {"rank": "lora_rank", "alpha": "lora_alpha", "dropout": "lora_dropout", "dora": "use_dora",
                  "targets": "lora_attn_modules"}  # fmt: skip


def learns(sheet: Sheet, *keys: str) -> None:
    """Set `train` where a builder of several towers says which of them learn (0, 1, or the builder's defaults)."""
    at = next((key for key in keys if sheet.has(key)), keys[0])
    parts = _of_model(sheet, "parts")
    if not parts:
        return
    on = {part: sheet.read(truth, *(f"{at}.{key}" for key in theirs)) for part, theirs in _PARTS.items()}
    kept = [f"^{parts[part]}" for part in _PARTS if (part in parts["default"] if on[part] is None else on[part])]
    if len(kept) < len(_PARTS):
        sheet.put("train", kept, f"{at}.decoder_trainable", default="the builder's signature")


def _targets(sheet: Sheet, at: str) -> dict[str, Any]:
    """The targets in Hugging Face's names; one regular expression where only some towers have adapters."""
    table = find("frameworks", "torchtune")
    attention = table["modules"]["attention"]
    chosen = [attention.get(name, name) for name in sheet.read(names, f"{at}.lora_attn_modules", default=[])]
    mlp = sheet.read(truth, f"{at}.apply_lora_to_mlp", default=False)
    chosen += table["modules"]["mlp"] if mlp else []
    chosen += table["modules"]["output"] if sheet.read(truth, f"{at}.apply_lora_to_output", default=False) else []
    parts = _of_model(sheet, "parts")
    if not parts:
        return {"targets": chosen}
    modules = "|".join([*chosen, *(parts["towers"] if mlp else [])])
    experts = _of_model(sheet, "experts") if mlp else None
    return {
        "targets": rf"({'|'.join(_adapted(sheet, at, parts))})\.({modules})",
        **({"parameters": experts} if experts else {}),
    }


def _of_model(sheet: Sheet, section: str) -> Any:  # noqa: ANN401 - a row of the table, or None
    return find("frameworks", "torchtune")[section].get(str(sheet.run.get("model")))


def _adapted(sheet: Sheet, at: str, parts: dict[str, str]) -> list[str]:
    """The towers with adapters: `decoder_trainable: lora`; by default those of the builder's signature."""
    by_default = {
        "decoder": "lora" if "llama-4" in str(sheet.run.get("model")) else "frozen",
        "encoder": "lora",
        "fusion": "lora",
    }
    said = {part: sheet.read(text, *(f"{at}.{key}" for key in theirs)) for part, theirs in _PARTS.items()}
    return [parts[part].removesuffix(".*") + ".*" for part in _PARTS if (said[part] or by_default[part]) == "lora"]


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _dimensions(sheet: Sheet, table: dict[str, Any], name: str, *keys: str) -> dict[str, Any]:
    """The arguments of a component builder as the keys of a config.json."""
    at = next((key for key in keys if sheet.has(key)), keys[0])
    made: dict[str, Any] = {"model_type": table["components"][name], "tie_word_embeddings": name in table["tied"]}
    for theirs, ours in table["arguments"].items():
        value = sheet.get(f"{at}.{theirs}")
        if value is not None:
            made[ours] = value
    return made
