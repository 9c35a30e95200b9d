"""llm-analysis' model files: dimensions of a decoder under its own names (llm_analysis/config.py, ModelConfig).

Its formulas know a plain decoder: four projections, a feed-forward layer of two matrices unless its type is llama's,
no biases that count. The nearest architecture of Hugging Face's stands for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.names import known
from memcalc.configs.table import Sheet
from memcalc.configs.words import text, whole
from memcalc.presets import has

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "llm-analysis-model"
TITLE: Final = "llm-analysis model"
_SOURCE: Final = "llm_analysis/config.py, ModelConfig"
_OWN: Final = {"name", "max_seq_len", "num_layers", "n_head", "hidden_dim", "vocab_size", "num_key_value_heads",
               "num_key_value_groups", "ffn_embed_dim", "expansion_ratio", "mlp_gated_linear_units", "mlp_activation_quant_bits",
               "model_type", "moe_num_experts", "moe_top_k"}  # fmt: skip
_GATED: Final = ("llama", "mistral", "mixtral", "qwen2", "gemma")


def recognises(document: Document) -> int:
    """By its names of dimensions, all of which are there."""
    return 86 if {"num_layers", "n_head", "hidden_dim", "vocab_size"} <= document.data.keys() else 0


def read(document: Document, asked: Asked) -> Reading:
    """A model, and memcalc's own defaults of a run."""
    sheet = Sheet(document, asked, NAME, TITLE)
    sheet.seen(*_OWN)
    if asked.model is None:
        name = sheet.read(text, "name", default="")
        found = known(sheet, name.replace("_", "/", 1)) or (known(sheet, name) if name else None)
        if found and isinstance(found, str) and has("models", found) and _same(sheet, found):
            sheet.put("model", found, "name")
        else:
            sheet.put("model", _dimensions(sheet), "hidden_dim", "num_layers", default=_SOURCE)
    length = sheet.read(whole, "max_seq_len")
    if length:
        sheet.put("seq_len", min(length, 2048), "max_seq_len")
    return sheet.reading()


def _same(sheet: Sheet, name: str) -> bool:
    """Whether a preset has the depth and width that the file says."""
    from memcalc.models import load_model  # noqa: PLC0415 - a folder of presets

    known_to = load_model(name).dimensions
    if known_to is None:
        return False
    width = next((known_to[key] for key in ("hidden_size", "n_embd", "d_model") if key in known_to), None)
    return bool(width == sheet.read(whole, "hidden_dim"))


def _dimensions(sheet: Sheet) -> dict[str, Any]:
    """A llama where its layers are gated, a GPT-2 otherwise."""
    hidden, heads = sheet.read(whole, "hidden_dim", default=0), sheet.read(whole, "n_head", default=1)
    kind = sheet.read(text, "model_type", default="")
    inner = sheet.read(whole, "ffn_embed_dim", default=4 * hidden)
    layers, words = sheet.read(whole, "num_layers", default=1), sheet.read(whole, "vocab_size", default=1)
    positions = sheet.read(whole, "max_seq_len", default=2048)
    if kind in _GATED:
        return {"model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
                "num_attention_heads": heads, "num_key_value_heads": sheet.read(whole, "num_key_value_heads", default=heads),
                "vocab_size": words, "max_position_embeddings": positions}  # fmt: skip
    return {"model_type": "gpt2", "n_embd": hidden, "n_inner": inner, "n_layer": layers, "n_head": heads,
            "vocab_size": words, "n_positions": positions}  # fmt: skip
