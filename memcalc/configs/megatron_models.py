"""Megatron-LM's models by their arguments, as dimensions of the architecture `megatron_gpt`; NeMo's likewise."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from memcalc.configs.megatron_words import table
from memcalc.configs.names import known
from memcalc.configs.words import number, text, whole
from memcalc.errors import nearest_names, shorten
from memcalc.presets import find, has

if TYPE_CHECKING:
    from memcalc.configs.megatron_words import Words

GATE = 64  # multiple that a gated width is cut down to
MOST = 10_000  # layers that a pattern may list
_SIZES = {"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "num_attention_heads": "num_attention_heads"}


def asked_whole(words: Words) -> bool:
    """Whether a whole model was asked for beside the config; what only changes a dimension (--set model.x) is none."""
    wanted = words.sheet.asked.model
    named = isinstance(wanted, dict) and not {"model_type", "preset", "blocks", "tensors", "path"} & set(wanted)
    return wanted is not None and not named


def put_model(words: Words) -> int:
    """Set `model` from the arguments; its number of layers (0 where it was asked for beside them, or can't be read)."""
    if asked_whole(words):
        return 0
    missing = [word for word in _SIZES if not words.has(word)]
    if missing:
        words.sheet.fault(words.at(missing[0]), f"no {', '.join(missing)}: the config does not describe its model; say which with "
                          "--model")  # fmt: skip
        return 0
    other = another(words)
    if other:
        words.sheet.fault(words.at(other[0]), f"it trains {other[1]}, whose layers these words do not describe: "
                          "say which model it is with --model")  # fmt: skip
        return 0
    made: dict[str, Any] = {"model_type": "megatron_gpt", **{ours: words.number(word) for word, ours in _SIZES.items()}}
    made |= _vocabulary(words) | _widths(words, made) | _switches(words) | _positions(words) | _latent(words)
    made |= _experts(words, made)
    words.put("model", made, *_SIZES)
    return int(made["num_hidden_layers"])


def another(words: Words) -> tuple[str, str] | None:
    """The word, or the program, by which the model is known to be no decoder of this kind, and what it is."""
    said = ((word, what) for word, what in table()["others"].items() if _is_on(words, word))
    run = ((name, what) for name, what in table()["programs"].items() if name in words.sheet.document.text)
    return next(said, None) or next(run, None)


def _is_on(words: Words, word: str) -> bool:
    return words.sheet.get(words.at(word)) not in (None, False, 0, "", "no")


def _widths(words: Words, made: dict[str, Any]) -> dict[str, Any]:
    """Feed-forward width and heads: num_query_groups counts only with group_query_attention (where that is a word)."""
    found: dict[str, Any] = {"intermediate_size": _inner(words, made["hidden_size"])}
    if words.has("kv_channels"):
        found["head_dim"] = words.number("kv_channels")
    groups = words.number("num_query_groups", default=1 if words.flag("multi_query_attention") else 0)
    if groups and (words.grouped or words.flag("group_query_attention", "multi_query_attention")):
        found["num_key_value_heads"] = groups
    return found


def _inner(words: Words, hidden: int) -> int:
    """4 h; gated 8/3 h, cut to a multiple of 64, or raised to FlagScale's multiple_of (arguments.py, validate_args)."""
    gated = _activation(words)[1]
    if words.has("ffn_hidden_size"):
        return words.number("ffn_hidden_size")
    if not gated:
        return 4 * hidden
    if words.has("multiple_of"):
        wide = int(int(4 * hidden * 2 / 3) * words.read(number, "hidden_dim_multiplier", default=1.0))
        step = max(1, words.number("multiple_of", default=1))
        return step * -(-wide // step)
    return int(4 * hidden * 2 / 3 / GATE) * GATE


def _activation(words: Words) -> tuple[str, bool]:
    """(function, whether it is gated): one switch each for Megatron-LM, one word in YAML and for NeMo."""
    if words.flag("swiglu"):
        return "silu", True
    if words.flag("squared_relu"):
        return "relu2", False
    word = words.read(text, "activation", "activation_func", default="gelu")
    known_words = table()["activations"]
    if word not in known_words:
        near = nearest_names(word, known_words)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known_words)}"
        at = words.at("activation" if words.has("activation") else "activation_func")
        words.sheet.fault(at, f"{word!r} is no activation; {hint}")
        return "gelu", False
    function, gated = known_words[word]
    return function, gated or words.flag("gated_linear_unit")


def _switches(words: Words) -> dict[str, Any]:
    """Biases, norms, dropout, the tied head: each as arguments.py has it where nothing is said."""
    function, gated = _activation(words)
    biased = words.flag("add_bias_linear", default=not words.flag("disable_bias_linear"))
    word = words.read(text, "normalization", default="LayerNorm")
    norm = table()["norms"].get(word.lower().replace("-", ""))
    if norm is None:
        words.sheet.fault(words.at("normalization"), f"{word!r} is no normalization: LayerNorm or RMSNorm")
    tied = words.flag(
        "share_embeddings_and_output_weights", default=not words.flag("untie_embeddings_and_output_weights")
    )
    return {
        "hidden_act": function, "gated": gated, "normalization": norm or "layer", "attention_bias": biased, "mlp_bias": biased,
        "qkv_bias": biased or words.flag("add_qkv_bias"), "qk_norm": words.flag("qk_layernorm"), "tie_word_embeddings": tied,
        "hidden_dropout": words.read(number, "hidden_dropout", default=0.1),
        "attention_dropout": words.read(number, "attention_dropout", default=0.1),
    }  # fmt: skip


def _positions(words: Words) -> dict[str, Any]:
    """Learned positions unless rotary ones are asked for."""
    word = words.read(text, "position_embedding_type", default="learned_absolute")
    kind = table()["positions"].get(word.lower())
    if words.flag("use_rotary_position_embeddings"):
        kind = "rope"
    if kind is None:
        words.sheet.fault(words.at("position_embedding_type"), f"{word!r} is not known: learned_absolute, rope or none")
    length = words.number("seq_length", default=2048)
    made: dict[str, Any] = {"position_embedding": kind or "rope"}
    made["max_position_embeddings"] = max(
        words.number("max_position_embeddings", default=length), length if kind != "learned" else 1
    )
    if kind == "rope" and words.has("rotary_percent"):
        made["rotary_percent"] = words.read(number, "rotary_percent")
    window = words.read(_window, "window_size", default=0)
    return {**made, "sliding_window": window} if window else made


def _window(value: Any) -> int:  # noqa: ANN401
    first = value[0] if isinstance(value, list) and value else str(value).strip("()[] ").split(",")[0].split()[0]
    return max(0, whole(first))


def _latent(words: Words) -> dict[str, Any]:
    """Multi-latent attention (MLATransformerConfig)."""
    if not words.flag("multi_latent_attention", default=words.has("kv_lora_rank") and words.has("qk_nope_head_dim")):
        return {}
    sizes = {"kv_lora_rank": words.number("kv_lora_rank", default=32),
             "qk_nope_head_dim": words.number("qk_head_dim", "qk_nope_head_dim", default=128),
             "v_head_dim": words.number("v_head_dim", default=128),
             "qk_rope_head_dim": words.number("qk_pos_emb_head_dim", "qk_rope_head_dim", default=64)}  # fmt: skip
    return {**sizes, "q_lora_rank": words.number("q_lora_rank") or None, "attention_bias": False}


def _experts(words: Words, made: dict[str, Any]) -> dict[str, Any]:
    count = words.number("num_experts", "num_moe_experts")
    if count <= 1:
        return {}
    width = words.number("moe_ffn_hidden_size", default=made["intermediate_size"])
    beside = words.number("moe_shared_expert_intermediate_size", default=width * words.number("num_shared_experts"))
    found: dict[str, Any] = {
        "num_experts": count, "num_experts_per_tok": words.number("moe_router_topk", default=2),
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": beside,
        "shared_expert_gate": words.flag("moe_shared_expert_gate", "moe_use_shared_expert_gate"),
        "router_scores": words.read(text, "moe_router_score_function", default="softmax"),
        "router_correction": words.flag("moe_router_enable_expert_bias"),
    }  # fmt: skip
    layers = words.read(lambda value: mixed_layers(value, made["num_hidden_layers"]), "moe_layer_freq", default=None)
    return {**found, "moe_layers": layers} if layers else found


def mixed_layers(value: Any, count: int) -> list[int]:  # noqa: ANN401
    """Which layers are mixtures: every n-th, or a list of 0 and 1, which may be written as "([0]*3+[1]*58)".

    ValueError where it is neither. Nothing is executed.
    """
    if isinstance(value, list):
        listed = [whole(item) for item in value]
    elif isinstance(value, str) and "[" in value:
        listed = _expression(value)
    else:
        every = max(1, whole(value))
        listed = [int(i % every == 0) for i in range(count)]
    if len(listed) != count:
        raise ValueError(f"{shorten(str(value))} lists {len(listed)} layers of {count}")
    return listed


def _expression(written: str) -> list[int]:
    """A sum of lists, each repeated, as text."""
    try:
        return _listed(ast.parse(written.strip()[:2000], mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shorten(written)} is no pattern of layers such as [0]*1+[1]*26") from error


def _listed(node: ast.expr) -> list[int]:
    match node:
        case ast.List(elts=items):
            return [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, int)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            found = [*_listed(left), *_listed(right)]
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))):
            found = _listed(left) * times if 0 <= times <= MOST else []
        case _:
            raise TypeError
    return found if len(found) <= MOST else []


def _vocabulary(words: Words) -> dict[str, Any]:
    """The vocabulary: as written (and padded later), else the tokenizer's by its name; a fault where that is not known."""
    wanted = words.sheet.asked.model
    if isinstance(wanted, dict) and wanted.get("vocab_size"):
        return {"vocab_size": wanted["vocab_size"]}
    written = words.number("padded_vocab_size", "vocab_size")
    if written > 0:
        return {"vocab_size": written + words.number("extra_vocab_size")}
    bpe = "GPT2BPETokenizer" if words.has("merge_file") else ""
    for word in ("tokenizer_model", "tokenizer_path", "tokenizer_name_or_path", "tokenizer_type"):
        name = words.read(text, word, default=bpe if word == "tokenizer_type" else "")
        rows = tokenizer_rows(words, name) if name else 0
        if rows:
            words.sheet.assume("model.vocab_size", "by-tokenizer", f"{rows} tokens, as {shorten(name)} has")
            return {"vocab_size": rows + words.number("extra_vocab_size")}
    if not words.sheet.faults:
        words.sheet.fault("model.vocab_size", "the config does not say how many tokens there are, and its tokenizer is not known; "
                          "say it with --set model.vocab_size=32000, or name the model with --model")  # fmt: skip
    return {}


def tokenizer_rows(words: Words, name: str) -> int:
    """The rows of a tokenizer by its type, its file's name, or the model it belongs to; 0 where it is not known."""
    rows = table()["tokenizers"].get(name) or table()["tokenizers"].get(name.rpartition("/")[2])
    if rows:
        return int(rows)
    before = len(words.sheet.assumptions), len(words.sheet.warnings)
    found = known(words.sheet, name) if "/" in name and "$" not in name and not name.startswith(("/", ".")) else None
    del words.sheet.assumptions[before[0] :], words.sheet.warnings[before[1] :]
    if isinstance(found, str) and has("models", found):
        return int(find("models", found)["dimensions"].get("vocab_size") or 0)
    return 0
