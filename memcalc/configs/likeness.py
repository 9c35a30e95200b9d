"""A config.json of a model type that is not known: read as the known type whose keys it has, which is a warning.

Remote code mostly varies a decoder that transformers has: the keys of its config say which (latent attention and routed
experts are DeepSeek's, `num_local_experts` Mixtral's, the rest Llama's).
"""

from __future__ import annotations

from typing import Any, Final

from memcalc.architectures import type_of_class
from memcalc.errors import nearest_names, shorten
from memcalc.presets import has, index

_REQUIRED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_SPELLINGS: Final = {
    "n_embd": "hidden_size", "d_model": "hidden_size", "dim": "hidden_size", "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers", "num_layers": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads", "num_heads": "num_attention_heads", "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size", "ffn_hidden_size": "intermediate_size", "n_kv_heads": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads", "multi_query_group_num": "num_key_value_heads", "n_positions": "max_position_embeddings",
    "max_seq_len": "max_position_embeddings", "seq_length": "max_position_embeddings", "padded_vocab_size": "vocab_size",
}  # fmt: skip
# the first whose keys are all there: (keys, model type)
_KINDS: Final = (
    (("kv_lora_rank", "n_routed_experts", "moe_intermediate_size"), "deepseek_v3"),
    (("n_routed_experts", "moe_intermediate_size"), "glm4_moe"),
    (("num_experts", "moe_intermediate_size"), "qwen3_moe"),
    (("num_local_experts", "intermediate_size"), "mixtral"),
    (("intermediate_size",), "llama"),
)  # fmt: skip
# what save_pretrained writes: without any of it, an unknown type is more likely a typing error than a new model
_PUBLISHED: Final = ("architectures", "auto_map", "transformers_version", "_name_or_path", "torch_dtype", "dtype")
# what no plain decoder has: layers of several kinds, encoders, images
_OTHERWISE: Final = ("mamba", "ssm_", "hybrid", "linear_num", "linear_key", "layers_block_type", "block_configs", "attn_layer_",
                     "is_encoder_decoder", "decoder_layers", "encoder_layers", "num_channels", "image_size", "conv_")  # fmt: skip
_INNER: Final = ("text_config", "llm_config", "language_config", "thinker_config")


def is_known(config: dict[str, Any]) -> bool:
    """Whether a config names a model type, or a class, that has an architecture."""
    written = config.get("model_type") or config.get("_class_name")
    classes = config.get("architectures")
    named = str(classes[0]) if isinstance(classes, list) and classes else ""
    return bool(written and has("architectures", str(written))) or bool(named and type_of_class(named))


def unlike(config: dict[str, Any]) -> str:
    """What to say of a config whose type is neither known nor like one that is."""
    written = shorten(str(config.get("model_type") or config.get("architectures")))
    near = nearest_names(written, index()["architectures"])
    hint = f"; the nearest: {', '.join(near)}" if near else ""
    return f"the model type {written!r} is not known{hint}; describe the model inline with blocks, or name another with --model"


def alike(config: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The config as one of a known type, and a sentence on how it was read; None where its keys are not enough."""
    inner = next((config[key] for key in _INNER if isinstance(config.get(key), dict)), None)
    if inner is not None:
        return _of_the_text(inner)
    if not any(key in config for key in _PUBLISHED):
        return None
    made = {**{_SPELLINGS[key]: value for key, value in config.items() if key in _SPELLINGS}, **config}
    if any(not isinstance(made.get(key), int) for key in _REQUIRED) or any(_strange(key, made[key]) for key in made):
        return None
    kind = next((name for keys, name in _KINDS if all(made.get(key) is not None for key in keys)), None)
    if kind is None:
        return None
    plain = {key: value for key, value in made.items() if key not in ("auto_map", "architectures")}
    return {**plain, "model_type": kind}, f"its keys are those of {kind}"


def _strange(key: str, value: object) -> bool:
    """Whether a key says, and means, that the model is no plain decoder."""
    return key.startswith(_OTHERWISE) and value not in (None, False, 0, [], {})


def _of_the_text(inner: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The language model inside a model of several kinds of input; its towers are left out."""
    if is_known(inner):
        return inner, f"it holds a {inner.get('model_type')}, which is counted; its other parts are not"
    found = alike(inner)
    return (found[0], f"{found[1]}; what is not its text model is not counted") if found else None
