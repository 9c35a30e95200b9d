"""Virtual tokens: prompt tuning (Lester et al. 2021), prefix tuning (Li & Liang 2021), P-tuning (Liu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.adapters.parts import Part
from memcalc.adapters.spec import LSTM_LAYERS, VIRTUAL_TOKENS
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.spec import Lora
    from memcalc.dimensions import Dimensions


def prompt_parts(run: Lora, config: Dimensions | None, task: str) -> Iterator[Part]:
    """The tensors of the prompt encoder, in fp32 whatever the model's dtype (peft, peft_model.py)."""
    if config is None:
        raise fault("lora.method", f"{run.method} needs the dimensions of a config.json")
    text = config.get("text_config")
    known = text if text is not None else config
    tokens = run.virtual_tokens or VIRTUAL_TOKENS
    if run.method == "prefix":
        yield from _prefix(run, known, tokens)
        return
    tokens *= 2 if task == "SEQ_2_SEQ_LM" else 1  # one prompt for the encoder, one for the decoder
    width = _size(known, "hidden_size", "n_embd", "d_model")
    yield Part("prompt_encoder.default.embedding.weight", (tokens, width))
    if run.method == "p-tuning":
        yield from _p_tuning(run, width)


def _prefix(run: Lora, config: Dimensions, tokens: int) -> Iterator[Part]:
    """Keys and values of every layer, learned directly or made by an MLP (tuners/prefix_tuning/model.py)."""
    width = _key_width(config)
    layers = _size(config, "num_hidden_layers", "num_layers", "n_layer", "encoder_layers")
    every = layers * 2 * width
    if not run.projection:
        yield Part("prompt_encoder.default.embedding.weight", (tokens, every))
        return
    hidden = run.encoder_hidden_size or width
    yield Part("prompt_encoder.default.embedding.weight", (tokens, width))
    yield from _linear("prompt_encoder.default.transform.0", width, hidden)
    yield from _linear("prompt_encoder.default.transform.2", hidden, every)


def _p_tuning(run: Lora, width: int) -> Iterator[Part]:
    """An MLP of three layers, or a bidirectional LSTM and two (tuners/p_tuning/model.py)."""
    hidden, prefix = run.encoder_hidden_size or width, "prompt_encoder.default"
    if run.encoder == "mlp":
        for index, (inputs, outputs) in enumerate([(width, hidden), (hidden, hidden), (hidden, width)]):
            yield from _linear(f"{prefix}.mlp_head.{2 * index}", inputs, outputs)
        return
    for layer in range(run.encoder_layers or LSTM_LAYERS):
        for direction in ("", "_reverse"):
            end = f"l{layer}{direction}"
            yield Part(f"{prefix}.lstm_head.weight_ih_{end}", (4 * hidden, 2 * hidden if layer else width))
            yield Part(f"{prefix}.lstm_head.weight_hh_{end}", (4 * hidden, hidden))
            yield Part(f"{prefix}.lstm_head.bias_ih_{end}", (4 * hidden,))
            yield Part(f"{prefix}.lstm_head.bias_hh_{end}", (4 * hidden,))
    yield from _linear(f"{prefix}.mlp_head.0", 2 * hidden, 2 * hidden)
    yield from _linear(f"{prefix}.mlp_head.2", 2 * hidden, width)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Part]:
    yield Part(f"{name}.weight", (outputs, inputs))
    yield Part(f"{name}.bias", (outputs,))


def _key_width(config: Dimensions) -> int:
    """Width of one token's keys: heads · head_dim, of the key/value heads where the config has them.

    (peft, utils/other.py, _prepare_prompt_learning_config.)
    """
    width = _size(config, "hidden_size", "n_embd", "d_model")
    kv_heads = config.get("num_key_value_heads")
    if not kv_heads:
        return width
    if config.get("global_head_dim"):
        return int(config.global_head_dim) * int(config.get("num_global_key_value_heads") or kv_heads)
    heads = _size(config, "num_attention_heads", "n_head", "num_heads", "encoder_attention_heads")
    head = (
        config.get("head_dim") or config.get("qk_rope_head_dim") or width // heads
    )  # latent attention: its rotary part
    return int(head) * int(kv_heads)


def _size(config: Dimensions, *keys: str) -> int:
    found = next((config.get(key) for key in keys if config.get(key)), None)
    if found is None:
        raise fault("lora.method", f"the model's config has none of {', '.join(keys)}, which virtual tokens need")
    return int(found)
