"""Virtual tokens: prompt tuning (Lester et al. 2021), prefix tuning (Li & Liang 2021), P-tuning (Liu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.adapters.cards import card, integer
from memcalc.adapters.parts import Part
from memcalc.adapters.patterns import parents
from memcalc.adapters.spec import LSTM_LAYERS, VIRTUAL_TOKENS
from memcalc.errors import fault
from memcalc.tensors import Tensor, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memcalc.adapters.sites import Module
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
    if run.method in OTHERS:
        yield from OTHERS[run.method](run, known, tokens)
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


def _cpt(run: Lora, config: Dimensions, tokens: int) -> Iterator[Part]:
    """The embeddings of the context, frozen, and what is trained on top (tuners/cpt/model.py)."""
    width = _size(config, "hidden_size", "n_embd", "d_model")
    if run.virtual_tokens is None:
        raise fault("lora.virtual_tokens", "CPT needs the number of its tokens (the length of cpt_token_ids)")
    yield Part("prompt_encoder.default.embedding.weight", (tokens, width), trainable=False)
    yield Part("prompt_encoder.default.delta_embedding.weight", (tokens, width))


def _multitask(run: Lora, config: Dimensions, tokens: int) -> Iterator[Part]:
    """A prompt, and rows and columns that change it for each task (tuners/multitask_prompt_tuning/model.py)."""
    width = _size(config, "hidden_size", "n_embd", "d_model")
    tasks, ranks = integer(run, "num_tasks"), integer(run, "num_ranks")
    yield Part("prompt_encoder.default.embedding.weight", (tokens, width))
    yield Part("prompt_encoder.default.prefix_task_cols", (tasks, tokens, ranks))
    yield Part("prompt_encoder.default.prefix_task_rows", (tasks, ranks, width))


def _cartridge(run: Lora, config: Dimensions, tokens: int) -> Iterator[Part]:
    """Keys and values of every layer, the first tokens frozen (tuners/cartridge/model.py)."""
    layers = _size(config, "num_hidden_layers", "num_layers", "n_layer", "encoder_layers")
    every, frozen = layers * 2 * _key_width(config), min(integer(run, "num_frozen_tokens"), tokens)
    if frozen:
        yield Part("prompt_encoder.default.frozen_embedding", (frozen, every), trainable=False)
    yield Part("prompt_encoder.default.trainable_embedding", (tokens - frozen, every))


def adaption_prompts(run: Lora, model_type: str, modules: Mapping[str, Module], base_dtype: str) -> tuple[Tensor, ...]:
    """LLaMA-Adapter (Zhang et al. 2023): a prompt and a gate in the last `adapter_layers` attentions (tuners/adaption_prompt).

    They keep the dtype of the base (fp32 beside a packed one).
    """
    known = card(run.method)["modules"]
    if model_type not in known:
        raise fault(
            "lora.method", f"Unsupported model type for adaption prompt: {model_type!r}; it knows {', '.join(known)}"
        )
    length, layers = integer(run, "adapter_len"), integer(run, "adapter_layers")
    if not length or not layers:
        raise fault("lora.options", "adaption-prompt needs adapter_len and adapter_layers")
    found = _attentions(modules, known[model_type])
    if layers > len(found):
        raise fault("lora.options.adapter_layers", f"is {layers}; the model has {len(found)}")
    width = next(m.weight.shape for m in modules.values() if m.kind == "embedding" and m.weight is not None)[1]
    dtype = "fp32" if base_dtype == "quantized" else base_dtype
    return tuple(
        Tensor(f"{name}.{part}", shape, role="adapter", dtype=dtype)
        for name in found[len(found) - layers :]
        for part, shape in (("adaption_prompt", (1, length, width)), ("adaption_gate", (1,)))
    )


def _attentions(modules: Mapping[str, Module], word: str) -> list[str]:
    """The attention modules, a layer each, in order: what lies around their projections."""
    holders = dict.fromkeys(outer for name in modules for outer in parents(name) if outer.endswith(f".{word}"))
    return [name for holder in holders for name in expand(holder)]


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


OTHERS: dict[str, Callable[[Lora, Dimensions, int], Iterator[Part]]] = {
    "cpt": _cpt, "multitask-prompt": _multitask, "cartridge": _cartridge,
}  # fmt: skip
