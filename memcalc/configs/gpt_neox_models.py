"""GPT-NeoX's models by their keys: transformers' class where it fits, Mamba, else Megatron-LM's with its switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.megatron_models import asked_whole, tokenizer_rows
from memcalc.configs.megatron_words import table
from memcalc.configs.words import number, text, whole

if TYPE_CHECKING:
    from memcalc.configs.megatron_words import Words

_NORMS: Final = {"layernorm": "layer", "non_parametric_layernorm": "layer", "rmsnorm": "rms", "scalenorm": "rms",
                 "te_rmsnorm": "rms", "te_layernorm": "layer"}  # fmt: skip


def put_model(words: Words) -> None:
    """Set `model`: GPT-NeoX where it is one, Mamba, else by its switches."""
    sheet = words.sheet
    if asked_whole(words):
        return
    sizes = ("num_layers", "hidden_size", "num_attention_heads")
    missing = [word for word in sizes if not words.has(word)]
    if missing:
        sheet.fault(missing[0], f"no {', '.join(missing)}: the file does not describe its model (it may be one of several that are "
                    "given together); put them into one file, or say the model with --model")  # fmt: skip
        return
    made: dict[str, Any] = {"vocab_size": _vocabulary(words), "hidden_size": words.number("hidden_size"),
                            "num_hidden_layers": words.number("num_layers"),
                            "tie_word_embeddings": not words.flag("no_weight_tying")}  # fmt: skip
    kinds = attention_kinds(words)
    if kinds == {"mamba"}:
        sheet.seen("num_attention_heads", "norm")
        words.put("model", {"model_type": "mamba", **made}, *sizes, "attention_config")
    elif kinds - {"global", "flash", "local"} and not all(
        kind.startswith(("sparse", "big")) for kind in kinds - {"global", "flash"}
    ):
        sheet.fault(
            "attention_config",
            f"layers of the kind of {', '.join(sorted(kinds))} are not modelled: global, flash and mamba are",
        )
    else:
        words.put("model", _decoder(words, made), *sizes)


def _decoder(words: Words, made: dict[str, Any]) -> dict[str, Any]:
    """The class that transformers has where it fits, else Megatron-LM's with its switches."""
    llama = words.read(text, "mlp_type", default="regular") == "llama"
    word = words.read(text, "activation", default="swiglu" if llama else "gelu")
    function, gated = table()["activations"].get(word, ("gelu", False))
    if word not in table()["activations"]:
        words.sheet.fault("activation", f"{word!r} is not known: gelu, swiglu, geglu, relu …")
    norm = _NORMS.get(words.read(text, "norm", default="layernorm"), "layer")
    place = table()["positions"].get(words.read(text, "pos_emb", default="learned"), "none")
    beside = "one" if words.flag("gpt_j_tied") else "two" if words.flag("gpt_j_residual") else ""
    biased = words.flag("use_bias_in_attn_linear", default=True), words.flag("use_bias_in_mlp", default=not llama)
    groups = words.number("num_kv_heads", default=words.number("num_attention_heads"))
    same = {**made, "num_attention_heads": words.number("num_attention_heads"), "intermediate_size": _inner(words, gated, llama),
            "hidden_act": function, "max_position_embeddings": words.number("max_position_embeddings", "seq_length", default=2048),
            "hidden_dropout": words.read(number, "hidden_dropout", default=0.0),
            "attention_dropout": words.read(number, "attention_dropout", default=0.0)}  # fmt: skip
    turned = words.read(number, "rotary_pct", default=1.0)
    mixed = _experts(words, made["num_hidden_layers"])
    plain = not mixed and norm == "layer" and place == "rope" and not gated and all(biased) and beside != "one"
    if plain and groups == same["num_attention_heads"]:
        return {"model_type": "gpt_neox", **same, "rotary_pct": turned, "use_parallel_residual": beside == "two"}
    return {"model_type": "megatron_gpt", **same, "num_key_value_heads": groups, "gated": gated, "normalization": norm,
            "position_embedding": place, "attention_bias": biased[0], "qkv_bias": biased[0], "mlp_bias": biased[1],
            "parallel_residual": beside, **mixed, **({"rotary_percent": turned} if place == "rope" else {}),
            **({"sliding_window": words.number("sliding_window_width")} if words.has("sliding_window_width") else {})}  # fmt: skip


def _experts(words: Words, layers: int) -> dict[str, Any]:
    """Experts of the width of the others, in every n-th layer (model/transformer.py, ParallelTransformerLayer)."""
    count = words.number("moe_num_experts", "num_experts", default=1)
    if count <= 1:
        return {}
    every = max(1, words.number("moe_expert_interval", "expert_interval", default=1))
    return {"num_experts": count, "num_experts_per_tok": max(1, words.number("moe_top_k", default=1)),
            "moe_layers": [int(i % every == 0) for i in range(layers)]}  # fmt: skip


def _inner(words: Words, gated: bool, llama: bool) -> int:
    """The width behind the activation: ParallelMLP halves two thirds of it where it is gated (model/transformer.py).

    Of old `mlp_type: llama` took intermediate_size as it was, or 8/3 h rounded up to 256; so is a width that today's code
    could not be built with read.
    """
    hidden = words.number("hidden_size")
    written = words.number("intermediate_size", "feedforward_size")
    wide = written or int(words.read(number, "expansion_factor", default=4) * hidden)
    if llama:
        return written or 256 * -(-int(8 * hidden / 3) // 256)
    if not gated:
        return wide
    step, whole_width = max(1, words.number("mlp_multiple_of", default=1)), int(wide * 2 / 3)
    if not written:
        words.sheet.assume("model.intermediate_size", "gated-width", "no intermediate_size: two thirds of 4 h, halved for the "
                           "gate, as NeoX has it since mlp_type is no more")  # fmt: skip
    outer, inner = (many * step * -(-size // (many * step)) for many, size in ((2, whole_width), (1, whole_width // 2)))
    if outer == 2 * inner:
        return inner
    words.sheet.warn(words.sheet.named("intermediate_size"), "read-as", f"two thirds of {wide} can't be halved: "
                     f"NeoX of today refuses it; read as the width of {wide} itself, as mlp_type: llama had it")  # fmt: skip
    return wide


def _vocabulary(words: Words) -> int:
    """Rows of the table: the tokenizer's, padded (megatron/tokenizer/tokenizer.py, _vocab_size_with_padding)."""
    wanted = words.sheet.asked.model
    if isinstance(wanted, dict) and wanted.get("vocab_size"):
        return int(whole(wanted["vocab_size"]))
    if words.has("padded_vocab_size"):
        return words.number("padded_vocab_size")
    rows = words.number("vocab_size") or _tokens(words)
    step = max(1, words.number("make_vocab_size_divisible_by", default=128)) * max(
        1, words.number("model_parallel_size", default=1)
    )
    return step * -(-rows // step)


def _tokens(words: Words) -> int:
    """The tokenizer's rows, by its file's name or its type; GPT-2's where none is named."""
    kind = words.read(text, "tokenizer_type", default="GPT2BPETokenizer")
    rows = 0
    for name in (words.read(text, "vocab_file", default=""), words.read(text, "tokenizer_model", default=""), kind):
        rows = rows or (tokenizer_rows(words, name) if name else 0)
    words.sheet.assume("model.vocab_size", "by-tokenizer", f"{rows or 50257} tokens, as {kind} has, padded (--set "
                       "model.vocab_size=… says otherwise)")  # fmt: skip
    return rows or 50257


def attention_kinds(words: Words) -> set[str]:
    """The kinds of layers that attention_config lists: [[[kinds], repeats], …], or one word each."""
    given = words.sheet.get("attention_config")
    found: set[str] = set()
    todo = list(given) if isinstance(given, list) else []
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, str) and item != "all":
            found.add(item.lower())
    return found or {"global"}
