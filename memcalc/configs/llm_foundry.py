"""llm-foundry's YAML (Composer): a training config, or an MCLI file that holds one under `parameters`.

Sources are those of llm-foundry 0.22 (llmfoundry/utils/config_utils.py, models/mpt) and Composer 0.32
(composer/distributed/mosaic_parallelism.py, utils/parallelism.py). Its traps:

* models are held in fp32, frozen ones under LoRA too; `precision: amp_bf16` is autocast around them, and FSDP gathers in
  bf16 (`mixed_precision: DEFAULT` reduces in fp32, PURE in bf16);
* `mpt_causal_lm` has biases and learned positions unless `no_bias` or ALiBi are asked for: tensor for tensor a GPT-2;
* the global batch is fixed: accumulation follows from it, the micro batch and the GPUs; `auto` is found by trial;
* without `fsdp_config` every GPU holds everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import interpolated
from memcalc.configs.llm_foundry_models import attention, model_of
from memcalc.configs.optim import put_optimizer
from memcalc.configs.peft import adapter
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import mapping, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "llm-foundry"
TITLE: Final = "llm-foundry"

_COMPOSER: Final = "composer/utils/parallelism.py, FSDPConfig"
_HALF: Final = {"amp_bf16": "bf16", "amp_fp16": "fp16", "amp_fp8": "bf16", "bf16": "bf16", "fp32": ""}
# names that llm-foundry registers -> presets (llmfoundry/optim/__init__.py); all of Adam's and Lion's states
_OPTIMIZERS: Final = {"decoupled_adamw": "adamw", "adamw": "adamw", "decoupled_lionw": "lion", "clip_lion": "lion",
                      "adalr_lion": "lion", "decoupled_lionw_8b": "lion-8bit", "no_op": "none"}  # fmt: skip
_KEYS: Final = (Key(("max_seq_len", "train_loader.dataset.max_seq_len"), "seq_len", whole),)
_IGNORED: Final = (
    "variables", "tokenizer*", "train_loader*", "eval_*", "scheduler", "callbacks", "loggers", "algorithms", "max_duration",
    "seed", "global_seed", "run_name", "save_*", "load_*", "progress_bar", "log_*", "console_log_interval", "python_log_level",
    "icl_*", "dist_timeout", "expandable_segments", "max_split_size_mb", "cuda_load_lazy", "code_paths", "autoresume",
    "metadata", "flatten_metadata", "profiler", "data_local", "data_remote", "tokenizer_name", "model_name_or_path",
    "device_eval_*", "accumulate_train_batch_on_tokens", "only_*", "spin_dataloaders", "train_subset_num_batches",
    "optimizer.*", "fsdp_config.*", "model.init_*", "model.pretrained", "model.use_auth_token", "model.config_overrides*",
    "model.name", "model.loss_fn", "model.use_train_metrics", "model.additional_*", "model.tokenizer_name", "model.verbose",
    "model.convert_to",
    "model.device", "model.should_save_peft_only", "model.trust_remote_code", "model.allow_embedding_resizing", "image",
    "model.resid_pdrop", "model.emb_pdrop", "model.norm_*", "model.logit_scale", "integrations", "command", "compute", "name",
    "scheduling", "cluster", "env_variables", "model.fc_type", "model.attn_config*", "model.peft_config*", "precision",
    "parameters",
    "model.use_pad_tok_in_ffn", "model.param_init_fn", "model.softmax_scale", "model.torch_dtype", "tp_config",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By Composer's batch sizes, or an MCLI file's parts."""
    data = document.data
    if isinstance(data.get("parameters"), dict) and "command" in data:
        return 85
    model = data.get("model")
    named = isinstance(model, dict) and (
        "pretrained_model_name_or_path" in model or "d_model" in model or "name" in model
    )
    batches = "device_train_microbatch_size" in data or "global_train_batch_size" in data
    return 90 if named and batches and "train_loader" in data else 70 if named and batches else 0


def read(document: Document, asked: Asked) -> Reading:
    """A training config, or the one within an MCLI file."""
    within = document.data.get("parameters")
    nodes = document.data.get("compute")
    gpus = nodes.get("gpus") if isinstance(nodes, dict) else None
    inner = document.part("parameters", within) if isinstance(within, dict) else document
    if "model" not in inner.data and asked.model is None:
        _refuse_empty(Sheet(document, asked, NAME, TITLE))
    sheet = Sheet(interpolated(inner), asked, NAME, TITLE)
    count = sheet.gpus(count=gpus if isinstance(gpus, int) and not isinstance(gpus, bool) and gpus > 0 else None)
    model_of(sheet)
    sheet.fill(_KEYS)
    half = _precision(sheet)
    attention(sheet)
    _adapters(sheet)
    _optimizer(sheet)
    _batch(sheet, count)
    _engine(sheet, count, half)
    _loss(sheet)
    sheet.unmodelled({
        "compile_config": "torch.compile fuses what the tape keeps apart: less memory than is shown",
        "model.ffn_config.moe_num_experts": "experts are not counted",
        "model.block_overrides": "layers that differ from the others are counted like them",
    })  # fmt: skip
    return sheet.reading(_IGNORED)


def _refuse_empty(sheet: Sheet) -> None:
    """An MCLI file whose command names the config that it trains with, and that holds none itself."""
    if sheet.has("command"):
        named = next((word for word in str(sheet.get("command")).split() if word.endswith((".yaml", ".yml"))), "")
        raise sheet.refuse("command", f"the file only starts {named or 'a command'}; name that config instead")


def _precision(sheet: Sheet) -> str:
    """Composer's word: autocast around fp32 weights; what frozen weights are kept in is fp32 too. The 16-bit dtype."""
    word = sheet.read(text, "precision", default="amp_bf16").lower()
    if word not in _HALF:
        sheet.fault("precision", f"{word!r} is none of {', '.join(_HALF)}")
    half = _HALF.get(word, "")
    recipe: Any = "fp32" if not half else f"amp-{'fp8' if word == 'amp_fp8' else half}"
    if word == "bf16":
        recipe = "bf16"
    if sheet.has("model.peft_config") and recipe.startswith("amp-"):
        recipe = {"recipe": recipe, "frozen": "fp32"}
    default = "" if sheet.has("precision") else "llmfoundry/utils/config_utils.py, TrainConfig"
    sheet.put("precision", recipe, "precision", default=default)
    return half


def _adapters(sheet: Sheet) -> None:
    """PEFT's own settings under model.peft_config, on a base in fp32, or in LLM.int8 under load_in_8bit."""
    given = sheet.read(mapping, "model.peft_config", default={})
    if given:
        inner = Sheet(sheet.document.part("model.peft_config", given), sheet.asked, NAME, TITLE)
        adapter(inner)
        sheet.adopt(inner.reading(("*",)))
    if sheet.read(truth, "model.load_in_8bit", default=False):
        if given:
            sheet.put("quantize", "int8", "model.load_in_8bit")
        else:
            sheet.fault("model.load_in_8bit", "weights in int8 can't be trained; add a peft_config")


def _optimizer(sheet: Sheet) -> None:
    name = sheet.read(text, "optimizer.name", default="decoupled_adamw")
    known = _OPTIMIZERS.get(name.lower(), name)
    put_optimizer(sheet, known, {}, "optimizer.name", default="" if sheet.has("optimizer.name") else "decoupled_adamw")


def _batch(sheet: Sheet, gpus: int) -> None:
    """Micro batch, and the accumulation that the global batch leaves (calculate_batch_size_info)."""
    total = sheet.read(whole, "global_train_batch_size", default=0)
    given = sheet.get("device_train_microbatch_size", default="auto")
    share = max(1, total // gpus) if total else 1
    if given == "auto":
        sheet.put("batch_size", 1, "device_train_microbatch_size")
        sheet.assume("batch_size", "auto", "device_train_microbatch_size auto: Composer halves the batch until it fits; a "
                     "micro batch of 1 is the least that it needs (say another with --batch-size)")  # fmt: skip
        rows = 1
    else:
        rows = max(1, sheet.read(whole, "device_train_microbatch_size", default=1))
        sheet.put("batch_size", min(rows, share) if total else rows, "device_train_microbatch_size")
    if total:
        sheet.put("grad_accum", -(-share // rows), "global_train_batch_size", "device_train_microbatch_size")


def _engine(sheet: Sheet, gpus: int, half: str) -> None:
    """FSDP1 with its checkpointing; without a section, copies everywhere."""
    at = "fsdp_config"
    if not sheet.read(mapping, at, default={}):
        sheet.put("checkpointing", "none", at, default=f"{_COMPOSER}: activation_checkpointing false")
        return
    on = sheet.read(truth, f"{at}.activation_checkpointing", default=False)
    made: dict[str, Any] = {"mode": "full" if on else "none"}
    if on and sheet.read(truth, f"{at}.activation_checkpointing_reentrant", default=True):
        made["reentrant"] = True
    if sheet.read(truth, f"{at}.activation_cpu_offload", default=False):
        made.update({"offload": True} if on else {})
        if not on:
            sheet.put("offload", "activations", f"{at}.activation_cpu_offload")
    sheet.put("checkpointing", made if on else "none", f"{at}.activation_checkpointing", default=_COMPOSER)
    if gpus > 1:
        _sharding(sheet, at, half)


def _sharding(sheet: Sheet, at: str, half: str) -> None:
    word = sheet.read(text, f"{at}.sharding_strategy", default="FULL_SHARD").upper().lstrip("_")
    if word == "NO_SHARD":
        sheet.put("sharding", "ddp", f"{at}.sharding_strategy")
        return
    replicas = sheet.read(whole, f"{at}.data_parallel_replicate_degree", default=1)
    options: dict[str, Any] = {"strategy": "hsdp" if replicas > 1 or word.startswith("HYBRID") else "fsdp", "version": 1,
                               "wrap": "layers", "sharding_strategy": word, "no_sync": False}  # fmt: skip
    if replicas > 1:
        options["replicate"] = replicas
    mixed = sheet.get(f"{at}.mixed_precision", default="DEFAULT")
    if isinstance(mixed, dict):
        options.update({key: str(mixed[key]) for key in ("param_dtype", "reduce_dtype") if mixed.get(key)})
    elif half and str(mixed).upper() in ("DEFAULT", "PURE"):
        options.update({"param_dtype": half, "reduce_dtype": half if str(mixed).upper() == "PURE" else "fp32"})
    for key, default in (("limit_all_gathers", True), ("use_orig_params", True)):
        options[key] = sheet.read(truth, f"{at}.{key}", default=default)
    if sheet.read(truth, f"{at}.keep_low_precision_grads", default=False):
        options["keep_low_precision_grads"] = True
    sheet.put("sharding", options, f"{at}.sharding_strategy", default=_COMPOSER)


def _loss(sheet: Sheet) -> None:
    """MPT's own loss is flash-attn's cross entropy (memcalc's `fused`), torch's only where that is named."""
    own = sheet.get("model.name") == "mpt_causal_lm"
    if own and sheet.get("model.loss_fn", default="fused_crossentropy") == "fused_crossentropy":
        sheet.put("loss", "fused", "model.loss_fn", default="llmfoundry/models/mpt/modeling_mpt.py: fused_crossentropy")
