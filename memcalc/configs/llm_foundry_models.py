"""llm-foundry's models: Hugging Face's by name, and MPT by its dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.names import model as named_model
from memcalc.configs.words import number, text, truth, whole
from memcalc.presets import find, has

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

_MPT: Final = {"d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048, "vocab_size": 50368}
_SOURCE: Final = "llmfoundry/models/mpt/configuration_mpt.py, MPTConfig"
_IMPLEMENTATIONS: Final = ("model.attn_config.attn_impl", "model.config_overrides.attn_config.attn_impl")
_POSITIONS: Final = ("max_seq_len", "n_positions", "max_position_embeddings")  # config_overrides that lengthen a model


def model_of(sheet: Sheet) -> None:
    """Set `model`: an MPT by its dimensions, or what pretrained_model_name_or_path names, with its overrides."""
    kind = sheet.read(text, "model.name", default="")
    sheet.seen("model.name")
    if sheet.asked.model is not None:
        sheet.seen("model")
    elif kind == "mpt_causal_lm":
        _mpt(sheet)
    else:
        named_model(sheet, "model.pretrained_model_name_or_path", "model.pretrained_model_name")
        _overridden(sheet)


def attention(sheet: Sheet) -> None:
    """Set `attention`: MPT's attn_impl, Hugging Face's use_flash_attention_2."""
    key = next((k for k in _IMPLEMENTATIONS if sheet.has(k)), "")
    if _relative(sheet):
        if sheet.get(*_IMPLEMENTATIONS, default="flash") == "flash":
            sheet.warn(key or "model.name", "not-modelled", "MPT's flash attention with ALiBi is counted as Hugging Face's, "
                       "which keeps the scores: more than is used")  # fmt: skip
        sheet.put("attention", "eager", key, default="Hugging Face's MPT has no other")
        return
    if sheet.read(truth, "model.use_flash_attention_2", default=False):
        sheet.put("attention", "flash", "model.use_flash_attention_2")
    elif key:
        sheet.put("attention", "eager" if sheet.get(key) == "torch" else "flash", key)
    elif sheet.get("model.name") == "mpt_causal_lm":
        sheet.put("attention", "flash", "model.attn_config.attn_impl", default="llmfoundry: attn_impl flash")
    elif sheet.has("model.attn_implementation"):
        word = sheet.read(text, "model.attn_implementation")
        sheet.put("attention", "flash" if "flash" in word else word, "model.attn_implementation")


def _relative(sheet: Sheet) -> bool:
    """Whether the model that was set is an MPT with ALiBi, which is a class of its own."""
    spec = sheet.run.get("model")
    name = spec.get("preset") if isinstance(spec, dict) else spec
    if isinstance(name, str) and has("models", name):
        return bool(find("models", name).get("architecture") == "mpt")
    return isinstance(spec, dict) and spec.get("model_type") == "mpt"


def _mpt(sheet: Sheet) -> None:
    """Biases and learned positions, as MPTConfig's defaults are, make it a GPT-2; ALiBi or RoPE have none of the latter."""
    full: dict[str, Any] = {key: sheet.read(whole, f"model.{key}", default=default) for key, default in _MPT.items()}
    ratio = sheet.read(number, "model.expansion_ratio", default=4)
    inner = sheet.read(whole, "model.ffn_config.ffn_hidden_size", default=0) or int(full["d_model"] * ratio)
    if sheet.get("model.ffn_config.ffn_type", default="mptmlp") not in ("mptmlp", "te_ln_mlp"):
        sheet.fault("model.ffn_config.ffn_type", "of MPT's feed-forward layers only mptmlp is known; describe the model "
                    "with --model (a config.json, or blocks)")  # fmt: skip
        return
    relative = any(sheet.read(truth, f"model.attn_config.{key}", default=False) for key in ("alibi", "rope"))
    learned = sheet.read(truth, "model.learned_pos_emb", default=True) and not relative
    sheet.seen("model.no_bias", "model.tie_word_embeddings", "model.head_dim")
    if any(sheet.has(f"model.attn_config.{key}") for key in ("kv_n_heads", "qk_ln", "qk_gn")):
        sheet.warn(
            "model.attn_config",
            "not-modelled",
            "grouped keys and values, and norms of q and k, are counted as MPT's own",
        )
    tied = sheet.read(truth, "model.tie_word_embeddings", default=True)
    made = _gpt2(full, inner, tied) if learned else _alibi(full, inner, tied)
    sheet.put("model", made, "model.d_model", "model.n_layers", default=_SOURCE)


def _gpt2(full: dict[str, Any], inner: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "n_embd": full["d_model"], "n_head": full["n_heads"], "n_layer": full["n_layers"],
        "n_inner": inner, "n_positions": full["max_seq_len"], "vocab_size": full["vocab_size"], "activation_function": "gelu",
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tie_word_embeddings": tied,
    }  # fmt: skip


def _alibi(full: dict[str, Any], inner: int, tied: bool) -> dict[str, Any]:
    ratio = inner / full["d_model"]
    return {
        "model_type": "mpt",
        **full,
        "expansion_ratio": int(ratio) if ratio == int(ratio) else ratio,
        "tie_word_embeddings": tied,
    }


def _overridden(sheet: Sheet) -> None:
    """`config_overrides` that lengthen a model's positions, as a change of its preset."""
    name = sheet.run.get("model")
    length = next(
        (value for key in _POSITIONS if (value := sheet.get(f"model.config_overrides.{key}")) is not None), None
    )
    if not isinstance(name, str) or not has("models", name) or not isinstance(length, int):
        return
    known = find("models", name)["dimensions"]
    key = next((k for k in _POSITIONS if k in known), None)
    if key and known[key] != length:
        sheet.put(
            "model", {"preset": name, key: length}, "model.config_overrides", "model.pretrained_model_name_or_path"
        )
