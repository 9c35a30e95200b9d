"""PEFT's adapter_config.json: the adapter and, often, the model it belongs to; the run around it is the trainer's.

peft/tuners/*/config.py hold the keys and their defaults; an absent `target_modules` means peft's own choice for the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.lora import targets
from memcalc.configs.names import model
from memcalc.configs.table import ABSENT, Key, Sheet
from memcalc.configs.words import mapping, names, number, same, text, truth, whole
from memcalc.presets import find
from memcalc.presets import names as preset_names

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "peft"
TITLE: Final = "PEFT adapter"
METHODS: Final = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "LOHA": "loha",
    "LOKR": "lokr",
    "IA3": "ia3",
    "VERA": "vera",
    "OFT": "oft",
    "PROMPT_TUNING": "prompt",
    "PREFIX_TUNING": "prefix",
    "P_TUNING": "p-tuning",
    "LN_TUNING": "ln-tuning",
    "TRAINABLE_TOKENS": "trainable-tokens",
}
RENAMED: Final = {"BONE": "MISS"}
VIRTUAL: Final = ("cpt", "multitask-prompt", "cartridge")  # fmt: skip


def _layers(value: Any) -> list[int] | int | None:  # noqa: ANN401
    return [whole(item) for item in value] if isinstance(value, list) else whole(value)


def _ranks(value: Any) -> dict[str, int]:  # noqa: ANN401
    return {str(key): whole(rank) for key, rank in mapping(value).items() if isinstance(rank, int | str)}


def _bias(value: Any) -> str:  # noqa: ANN401
    word = text(value).lower()
    return "lora_only" if word.endswith("_only") else "none" if word in ("no", "") else word


def _or_none(value: Any) -> int | None:  # noqa: ANN401
    return whole(value) or None


COMMON: Final = (
    Key("target_modules", "lora.targets", targets), Key("exclude_modules", "lora.exclude", targets),
    Key("layers_to_transform", "lora.layers", _layers), Key("layers_pattern", "lora.layers_pattern", names),
    Key("modules_to_save", "lora.save_modules", names), Key("ensure_weight_tying", "lora.tie_saved", truth),
    Key("trainable_token_indices", "lora.token_indices", same),
)  # fmt: skip
# what each method has besides, with its defaults (peft/tuners/<method>/config.py)
OWN: Final = {
    "lora": (
        Key("r", "lora.rank", whole, 8, "peft/tuners/lora/config.py"), Key("lora_alpha", "lora.alpha", number),
        Key("lora_dropout", "lora.dropout", number), Key("rank_pattern", "lora.rank_pattern", _ranks),
        Key("bias", "lora.bias", _bias),
        Key("use_dora", "lora.dora", truth), Key("use_rslora", "lora.rslora", truth), Key("lora_bias", "lora.lora_bias", truth),
        Key("target_parameters", "lora.parameters", names),
    ),
    "adalora": (
        Key("init_r", "lora.init_rank", whole, 12, "peft/tuners/adalora/config.py"), Key("target_r", "lora.target_rank", whole),
        Key("lora_alpha", "lora.alpha", number), Key("lora_dropout", "lora.dropout", number), Key("bias", "lora.bias", _bias),
    ),
    "loha": (
        Key("r", "lora.rank", whole, 8, "peft/tuners/loha/config.py"), Key("alpha", "lora.alpha", number),
        Key("rank_pattern", "lora.rank_pattern", _ranks), Key("use_effective_conv2d", "lora.effective_conv", truth),
    ),
    "lokr": (
        Key("r", "lora.rank", whole, 8, "peft/tuners/lokr/config.py"), Key("alpha", "lora.alpha", number),
        Key("rank_pattern", "lora.rank_pattern", _ranks), Key("use_effective_conv2d", "lora.effective_conv", truth),
        Key("decompose_both", "lora.decompose_both", truth), Key("decompose_factor", "lora.decompose_factor", whole),
    ),
    "ia3": (Key("feedforward_modules", "lora.feedforward", targets),),
    "vera": (
        Key("r", "lora.rank", whole, 256, "peft/tuners/vera/config.py"), Key("vera_dropout", "lora.dropout", number),
        Key("bias", "lora.bias", _bias),
    ),
    "oft": (
        Key("oft_block_size", "lora.block_size", _or_none), Key("r", "lora.rank", _or_none),
        Key("block_share", "lora.block_share", truth), Key("bias", "lora.bias", _bias),
    ),
    "prompt": (Key("num_virtual_tokens", "lora.virtual_tokens", whole),),
    "prefix": (
        Key("num_virtual_tokens", "lora.virtual_tokens", whole), Key("prefix_projection", "lora.projection", truth),
        Key("encoder_hidden_size", "lora.encoder_hidden_size", whole),
    ),
    "p-tuning": (
        Key("num_virtual_tokens", "lora.virtual_tokens", whole), Key("encoder_hidden_size", "lora.encoder_hidden_size", whole),
        Key("encoder_reparameterization_type", "lora.encoder", lambda value: text(value).lower()),
        Key("encoder_num_layers", "lora.encoder_layers", whole),
    ),
    "ln-tuning": (),
    "trainable-tokens": (Key("token_indices", "lora.token_indices", same),),
}  # fmt: skip
IGNORED: Final = (
    "auto_mapping", "inference_mode", "revision", "peft_version", "init_*", "fan_in_fan_out", "loftq_config*", "eva_config*",
    "corda_config*", "megatron_*", "alpha_pattern*", "task_type", "runtime_config*", "token_dim", "num_layers", "r", "lora_alpha",
    "num_attention_heads", "num_transformer_submodules", "prompt_tuning_init*", "tokenizer_*", "beta1", "beta2", "deltaT", "tinit",
    "tfinal", "total_step", "orth_reg_weight", "rank_dropout*", "module_dropout", "encoder_dropout", "save_projection",
    "projection_prng_key", "d_initial", "rank_pattern*", "use_cayley_neumann", "num_cayley_neumann_terms", "coft", "eps", "alpha",
    "lora_dropout", "use_rslora", "use_dora", "lora_bias", "layer_replication*", "qalora_group_size", "kasa_config*", "bias",
    "arrow_config*", "lora_ga_config*", "use_bdlora*", "modules_to_tie", "oft_dropout", "layers_pattern", "monteclora_config*",
    "velora_config*",
)  # fmt: skip
_UNMODELLED: Final = {
    "layer_replication": "layers that are repeated by layer_replication are counted once",
    "use_qalora": "QALoRA's pooled inputs are counted as LoRA's",
    "kasa_config": "what KaSA adds to LoRA is not counted",
    "use_bdlora": "block-diagonal LoRA is counted with whole factors",
    "arrow_config": "what Arrow's router keeps is not counted",
}


def recognises(document: Document) -> int:
    """By `peft_type`, which every adapter of peft has."""
    return 95 if "peft_type" in document.data else 0


def read(document: Document, asked: Asked) -> Reading:
    """The adapter, on the model that is asked for or that the file names."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet, "base_model_name_or_path")
    adapter(sheet)
    return sheet.reading(IGNORED)


def adapter(sheet: Sheet) -> None:
    """Set `lora` from the keys of an adapter_config.json; a fault where memcalc does not know the method."""
    kind = sheet.read(text, "peft_type", default="LORA").upper()
    method = METHODS.get(kind) or by_card(kind)
    if method is None:
        _unknown(sheet, kind)
        return
    sheet.put("lora.method", method, "peft_type")
    own = OWN[method] if method in OWN else _of_card(sheet, method)
    sheet.fill(key for key in (*COMMON, *own) if not _empty(sheet, key))
    if method == "trainable-tokens":
        _tokens(sheet)
    task = sheet.read(text, "task_type")
    if task:
        sheet.put("lora.task", task, "task_type")
    sheet.unmodelled(_UNMODELLED)


def by_card(kind: str) -> str | None:
    """The method whose preset has that `peft_type` (Bone is what MiSS was called before peft 0.18)."""
    kind = RENAMED.get(kind, kind)
    return next((name for name in preset_names("adapters") if find("adapters", name).get("peft_type") == kind), None)


def _of_card(sheet: Sheet, method: str) -> tuple[Key, ...]:
    """The keys of a method with a preset: its size, its options, and those that change no size."""
    card = find("adapters", method)
    size, options = card.get("rank", {}), card["options"]
    sheet.seen(*card["no_size"], *(f"{key}.*" for key in card["no_size"]))
    keys = [Key(name, f"lora.options.{name}", _option) for name in options]
    if size:
        keys.append(
            Key(size["key"], "lora.rank", whole, ABSENT if size["default"] is None else size["default"], card["source"])
        )
    if "pattern" in size:
        keys.append(Key(size["pattern"], "lora.rank_pattern", _ranks))
    if "dropout" in card:
        keys.append(Key(card["dropout"], "lora.dropout", number))
    if "bias" in card["has"]:
        keys.append(Key("bias", "lora.bias", _bias))
    if method in VIRTUAL:
        keys.append(Key(("num_virtual_tokens", "cpt_token_ids"), "lora.virtual_tokens", _length))
    return tuple(keys)


def _tokens(sheet: Sheet) -> None:
    """Trainable tokens: the modules they are rows of, where they are named."""
    modules, rows = sheet.get("target_modules"), sheet.get("token_indices")
    if modules and isinstance(rows, list):
        named = [modules] if isinstance(modules, str) else modules
        sheet.put("lora.token_indices", dict.fromkeys(named, rows), "target_modules")


def _option(value: Any) -> Any:  # noqa: ANN401
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("a number, a word, true or false is expected")


def _length(value: Any) -> int | None:  # noqa: ANN401
    return len(value) or None if isinstance(value, list) else whole(value)


def _unknown(sheet: Sheet, kind: str) -> None:
    """A fault for a method that is not modelled; a warning where the command line says what to count in its place."""
    what = f"what {kind} trains is not modelled"
    if "lora" in sheet.asked.flags:
        sheet.warn("peft_type", "not-modelled", f"{what}: the adapter that was asked for is counted in its place")
        return
    sheet.fault(
        "peft_type", f"{what}; of peft's methods these are: {', '.join(METHODS)} (--lora 32 counts LoRA in its place)"
    )


def _empty(sheet: Sheet, key: Key) -> bool:
    """Whether a key is written as an empty list or mapping, which says nothing."""
    return sheet.has(*key.spellings) and sheet.get(*key.spellings) in ([], {}, "")
