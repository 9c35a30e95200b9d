"""Parts of Axolotl's schema that take a rule: storage of the base, adapters, attention, kernels, preferences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.adapters.patterns import sample
from memcalc.adapters.sites import modules_of
from memcalc.configs import losses
from memcalc.configs.heads import scored
from memcalc.configs.lora import ALL_LINEAR
from memcalc.configs.packed import packed
from memcalc.configs.table import Key
from memcalc.configs.words import mapping, names, number, same, text, truth, whole
from memcalc.errors import MemcalcError
from memcalc.freezing import endless
from memcalc.implementations import kernels as kernels_of
from memcalc.models import load_model
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.configs.table import Sheet
    from memcalc.model import Model

_PEFT: Final = "axolotl/utils/schemas/peft.py"
_NORMS: Final = ("liger_rms_norm", "liger_layer_norm")
_MLPS: Final = ("liger_glu_activation", "liger_swiglu")


def _some(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, but nothing where nothing is said: an empty list, false."""
    return lambda value: convert(value) or None


def _whole_numbers(value: Any) -> list[int]:  # noqa: ANN401 - whatever is written
    return [whole(item) for item in value] if isinstance(value, list) else [whole(value)]


_ADAPTER: Final = (
    Key("lora_r", "lora.rank", whole, 8, _PEFT), Key("lora_alpha", "lora.alpha", number),
    Key("lora_dropout", "lora.dropout", number),
    Key("peft_use_dora", "lora.dora", _some(truth)), Key("peft_use_rslora", "lora.rslora", _some(truth)),
    Key("lora_modules_to_save", "lora.save_modules", _some(names)), Key("lora_target_parameters", "lora.parameters", _some(names)),
    Key("lora_exclude_modules", "lora.exclude", _some(names)), Key("lora_rank_pattern", "lora.rank_pattern", _some(mapping)),
    Key("peft_trainable_token_indices", "lora.token_indices", _some(same)),
    Key("peft_layers_to_transform", "lora.layers", _some(_whole_numbers)),
    Key("peft_layers_pattern", "lora.layers_pattern", _some(names)),
    Key("peft_ensure_weight_tying", "lora.tie_saved", _some(truth)),
)  # fmt: skip


def storage(sheet: Sheet) -> None:
    """Set `quantize`: bitsandbytes' 4 bits (NF4, twice quantised, stored in bf16) and 8, GPTQ, a packed checkpoint.

    Embeddings and norms that peft's k-bit preparation widens are cast back (loaders/model.py, _configure_embedding_dtypes).
    """
    options = sheet.read(mapping, "bnb_config_kwargs", default={})
    experts = sheet.read(truth, "quantize_moe_experts", default=False) or _linear_experts(sheet)
    four, eight = (sheet.read(truth, key, default=False) for key in ("load_in_4bit", "load_in_8bit"))
    if four:
        made: dict[str, Any] = {
            "name": str(options.get("bnb_4bit_quant_type", "nf4")),
            "double": truth(options.get("bnb_4bit_use_double_quant", True)),
            "storage": "bf16", "upcast": False,
        }  # fmt: skip
        sheet.put("quantize", {**made, **({"experts": True} if experts else {})}, "load_in_4bit")
    elif eight:
        sheet.put(
            "quantize", {"name": "int8", "upcast": False, **({"experts": True} if experts else {})}, "load_in_8bit"
        )
    elif sheet.read(truth, "gptq", default=False):
        sheet.put("quantize", "gptq", "gptq")
    elif sheet.has("adapter"):
        packed(sheet, "base_model")
    if "quantize" in sheet.run and not sheet.has("adapter"):
        sheet.fault(
            sheet.named("load_in_4bit", "load_in_8bit", "gptq"), "8- and 4-bit weights are not trained; set an adapter"
        )


def _linear_experts(sheet: Sheet) -> bool:
    """Whether experts are separate linear layers, which bitsandbytes packs: Llama 4's, in Axolotl's own uploads."""
    return "linearized" in str(sheet.get("base_model")).lower() or sheet.read(
        truth, "llama4_linearized_experts", default=False
    )


def adapters(sheet: Sheet, half: str, engine: str) -> None:
    """Set `lora`; adapters are fp32 by peft's own rule, and what the engine makes of the model under DeepSpeed."""
    sheet.fill(_ADAPTER)
    _targets(sheet)
    kept = sheet.read(truth, "peft_autocast_adapter_dtype", default=True)
    narrow = bool(half) and (engine == "deepspeed" or not kept)
    sheet.put("lora.dtype", half if narrow else "fp32", "peft_autocast_adapter_dtype",
              default="DeepSpeed casts the model" if narrow else "peft: autocast_adapter_dtype")  # fmt: skip


def _targets(sheet: Sheet) -> None:
    """lora_target_modules as it is (a text is a regular expression); lora_target_linear adds every linear layer."""
    given = sheet.get("lora_target_modules")
    if not sheet.read(truth, "lora_target_linear", default=False):
        chosen: Any = _of_today(sheet, given) if isinstance(given, str) else names(given) or None
        if chosen is None and not sheet.has("lora_target_parameters"):
            return
        sheet.put("lora.targets", chosen or [], "lora_target_modules", "lora_target_parameters")
        return
    extra = names([given] if isinstance(given, str) else given)
    linear = _linear_names(sheet) if extra else []
    beyond = [name for name in extra if name not in linear]
    sheet.put(
        "lora.targets",
        [*linear, *beyond] if beyond and linear else ALL_LINEAR,
        "lora_target_linear",
        "lora_target_modules",
    )


def _of_today(sheet: Sheet, pattern: str) -> str:
    """A regular expression that is of older names of a model of several towers, of those that transformers 5 gives it."""
    model = None if endless(pattern) else model_of(sheet)
    modules = [sample(name) for name in modules_of(model.tensors)] if model else []
    for old, new in (("", ""), *find("frameworks", "axolotl")["older"].items()):
        renamed = pattern.replace(old, new) if old else pattern
        if old in pattern and any(_fits(renamed, name) for name in modules):
            if renamed != pattern:
                sheet.assume("lora.targets", "older-names", f"{old} is called {new} in transformers 5")
            return renamed
    return pattern


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def _linear_names(sheet: Sheet) -> list[str]:
    """The last parts of the names of linear layers, the head's left out (loaders/adapter.py, find_all_linear_names)."""
    model = model_of(sheet)
    if model is None:
        return []
    found = (
        module.name.rpartition(".")[2]
        for module in modules_of(model.tensors).values()
        if module.kind in ("linear", "conv1d")
    )
    return [name for name in dict.fromkeys(found) if name not in ("lm_head", "embed_out", "score")]


def model_of(sheet: Sheet) -> Model | None:
    """The model, where it is known."""
    spec = sheet.run.get("model", sheet.asked.model)
    try:
        return load_model(spec) if spec is not None else None
    except MemcalcError:
        return None


def attention(sheet: Sheet) -> str:
    """Set `attention`; the implementation as Axolotl calls it, '' where none is named."""
    table = find("frameworks", "axolotl")
    flag = next((key for key in table["flags"] if sheet.read(truth, key, default=False)), "")
    word = sheet.read(text, "attn_implementation", default=table["flags"].get(flag, ""))
    base: str = word.split(":", 1)[0].split("@", 1)[0].strip()
    ours = table["attention"].get(base) or ("flash" if "flash" in base else "")
    key = sheet.named("attn_implementation", flag or "attn_implementation")
    if not ours:
        if base:
            sheet.warn(key, "not-modelled", f"attention {base} is counted as transformers' own choice")
        return base
    model = model_of(sheet)
    if ours == "flash" and model and model.architecture in find("implementations", "flash-attention")["unsupported"]:
        sheet.warn(key, "not-modelled", f"{base} of a {model.architecture} is counted as sdpa")
        ours = "sdpa"
    sheet.put("attention", ours, key)
    return base


def kernels(sheet: Sheet) -> None:
    """Set `loss` and `implementation` from the plugins: cut cross entropy, Liger's kernels."""
    plugins = " ".join(names(sheet.get("plugins")))
    cut = sheet.read(truth, "cut_cross_entropy", default="CutCrossEntropy" in plugins)
    fused, whole_loss = (
        sheet.read(truth, f"liger_{name}", default=False) for name in ("fused_linear_cross_entropy", "cross_entropy")
    )
    if cut:
        sheet.put("loss", "fused-linear", "cut_cross_entropy", "plugins")
        sheet.assume(
            "loss", "cut-cross-entropy", "cut cross entropy is counted as Liger's: neither makes all the logits"
        )
    elif fused or whole_loss:
        sheet.put(
            "loss", "fused-linear" if fused else "fused", "liger_fused_linear_cross_entropy", "liger_cross_entropy"
        )
    elif sheet.read(truth, "chunked_cross_entropy", default=False):
        chunks = sheet.read(whole, "chunked_cross_entropy_num_chunks", default=8)
        sheet.put("loss", {"kind": "chunked", "chunks": chunks}, "chunked_cross_entropy")
    sheet.seen("chunked_cross_entropy_num_chunks", "liger_rope", "liger_rms_norm_gated", *_NORMS, *_MLPS)
    if "Liger" in plugins and any(sheet.get(key) for key in (*_NORMS, *_MLPS)):
        _liger(sheet)


def _liger(sheet: Sheet) -> None:
    """Liger's norms and feed-forward layers, taken over together where memcalc knows them for the model."""
    model = model_of(sheet)
    try:
        kernels_of("hf-liger", model.architecture if model else "")
    except MemcalcError:
        sheet.warn("plugins", "not-modelled", "Liger's kernels for this model are counted as transformers' own layers")
        return
    sheet.put("implementation", "hf-liger", *(key for key in (*_NORMS, *_MLPS) if sheet.has(key)))
    if not (any(sheet.get(key) for key in _NORMS) and any(sheet.get(key) for key in _MLPS)):
        sheet.assume("implementation", "liger-parts", "Liger's norms and feed-forward layers are counted together")


def learns(sheet: Sheet, trained: str) -> None:
    """Set `train` from unfrozen_parameters (regular expressions, a range of rows left out), `freeze` from freeze_mm_modules."""
    patterns = [re.sub(r"\[[\d:]+\]$", "", pattern) for pattern in _listed(sheet.get("unfrozen_parameters"))]
    if patterns and trained == "all":
        sheet.put("train", patterns, "unfrozen_parameters")
    if sheet.read(truth, "freeze_mm_modules", default=False) and trained == "all":
        model = model_of(sheet)
        towers = [t for t in find("frameworks", "axolotl")["towers"]
                  if model and any(t in tensor.name.split(".") for tensor in model.tensors)]  # fmt: skip
        if towers:
            sheet.put("freeze", towers, "freeze_mm_modules")


def _listed(value: Any) -> list[str]:  # noqa: ANN401
    return [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []


# of a reference that does not run over what the model keeps; SimPO's is loaded, and not asked
_ORDER: Final[dict[str, dict[str, Any]]] = {
    "grpo": {"after": False}, "ebft": {"after": False}, "simpo": {"forward": False},
}  # fmt: skip


def preferences(sheet: Sheet, half: str, trained: str) -> None:
    """Pairs of rows, generated rows, and the frozen copy that setup_reference_model loads (train.py)."""
    kind = sheet.read(text, "rl", default="").lower()
    if sheet.read(truth, "reward_model", default=False):
        _reward(sheet)
    if not kind or kind == "no":
        return
    if kind in ("dpo", "ipo", "orpo", "simpo"):
        _paired(sheet)
    elif kind in ("grpo", "gdpo", "ebft"):
        _generated(sheet)
    kind = "grpo" if kind == "gdpo" else kind  # whose rewards alone are added up otherwise
    losses.of_trl(sheet, kind, "rl")
    beta = sheet.read(number, "trl.beta", "rl_beta", default=0.0)
    copied = kind != "orpo" and (trained == "all" or sheet.read(truth, "rl_adapter_ref_model", default=False))
    sheet.seen("rl_adapter_ref_model")
    if kind in ("grpo", "ebft") and beta == 0:
        return
    if kind in ("dpo", "ipo", "kto") and sheet.read(truth, "precompute_ref_log_probs", default=False):
        return
    order = _ORDER.get(kind, {})
    if copied:
        sheet.put(
            "companions", [{"role": "reference", "model": "same", **({"dtype": half} if half else {}), **order}], "rl"
        )
    elif kind in ("dpo", "ipo", "kto", "grpo") and "lora" in sheet.run:
        sheet.put("companions", [{**losses.SHARED, **order}], "rl")


def _paired(sheet: Sheet) -> None:
    sheet.put("batch_size", 2 * sheet.run["batch_size"], "micro_batch_size", "rl")
    sheet.assume("batch_size", "pairs", "a pair is two rows: chosen and rejected are concatenated in one forward pass")


def _reward(sheet: Sheet) -> None:
    """A classifier with one output over pairs (AutoModelForSequenceClassification)."""
    _paired(sheet)
    scored(sheet, "reward_model")


def _generated(sheet: Sheet) -> None:
    """A prompt and its completion; vLLM's share of the GPU where it runs there."""
    made = sheet.read(whole, "trl.max_completion_length", default=512)
    prompt = sheet.read(whole, "max_prompt_len", default=512)
    sheet.put(
        "seq_len", prompt + made, "trl.max_completion_length", "max_prompt_len", default="trl/trainer/grpo_config.py"
    )
    if sheet.read(truth, "trl.use_vllm", default=False) and sheet.get("trl.vllm_mode") == "colocate":
        share = sheet.read(number, "vllm.gpu_memory_utilization", default=0.9)
        sheet.put("margin", f"{100 * share:g}%", "vllm.gpu_memory_utilization", default="axolotl/utils/schemas/vllm.py")
    else:
        sheet.warn("rl", "not-modelled", "what generating the completions takes is not counted")
