"""What every config around the Hugging Face Trainer has in common: precision, engine, batch, optimizer, checkpointing.

transformers 5.23, training_args.py (keys, defaults) and trainer_optimizer.py; accelerate, which prepares the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import deepspeed, fsdp
from memcalc.configs.follow import follow
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import text, truth, whole
from memcalc.errors import UnknownName, UnreadableInput, nearest_names
from memcalc.optimizers import resolve
from memcalc.presets import index
from memcalc.run.spelling import spelled_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOURCE: Final = "transformers/training_args.py"
BATCH: Final = (
    Key("per_device_train_batch_size", "batch_size", whole, 8, SOURCE),
    Key("gradient_accumulation_steps", "grad_accum", whole, 1, SOURCE),
)

# keys of TrainingArguments that do not change the memory of a training step
IGNORED: Final = (
    "output_dir", "overwrite_output_dir", "do_train", "do_eval", "do_predict", "eval_*", "evaluation_strategy",
    "per_device_eval_batch_size", "per_gpu_*", "learning_rate", "weight_decay", "adam_*", "max_grad_norm", "num_train_epochs",
    "max_steps", "lr_scheduler_*", "warmup_*", "log_*", "logging_*", "save_*", "seed", "data_seed", "disable_tqdm",
    "remove_unused_columns", "label_names", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "ignore_data_skip", "report_to", "run_name", "push_to_hub*", "hub_*", "resume_from_checkpoint", "dataloader_*",
    "group_by_length", "length_column_name", "ddp_timeout", "ddp_backend", "local_rank", "project", "trackio_*", "tf32",
    "skip_memory_metrics", "use_cpu", "no_cuda", "use_mps_device", "full_determinism", "past_index",
    "jit_mode_eval", "use_ipex", "bf16_full_eval", "fp16_full_eval", "fp16_opt_level", "fp16_backend", "half_precision_backend",
    "tpu_*", "debug", "include_*", "prediction_loss_only", "batch_eval_metrics", "restore_callback_states_from_checkpoint",
    "accelerator_config*", "torchdynamo", "ray_scope", "enable_jit_checkpoint", "average_tokens_across_devices", "num_workers",
    "optim_args", "train_sampling_strategy", "liger_kernel_config", "torch_compile_*", "packages", "gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs", "torch_empty_cache_steps", "predict_with_generate", "sortish_sampler", "lr_end",
    "remove_columns", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_broadcast_buffers",
    "ddp_static_graph", "use_legacy_prediction_loop",
    "fsdp_transformer_layer_cls_to_wrap", "fsdp_min_num_params",
)  # fmt: skip
UNMODELLED: Final = {
    "torch_compile": "torch.compile changes what is kept for the backward pass: the numbers are those of eager code",
    "auto_find_batch_size": "the batch is halved until it fits: the numbers are those of the batch that is written",
    "neftune_noise_alpha": "NEFTune's noise, one tensor of the size of the embedded input, is not counted",
}


def half_of(sheet: Sheet, default: str = "") -> str:
    """What the trainer computes in: "bf16", "fp16", or "" for neither; `default` where neither flag is written."""
    if not sheet.has("bf16", "fp16"):
        sheet.seen("bf16", "fp16")
        return default
    flags = {name: sheet.read(truth, name, default=None) for name in ("bf16", "fp16")}
    if flags["bf16"] and flags["fp16"]:
        sheet.fault("fp16", "bf16 and fp16 are both on; the Trainer takes one of them")
    if flags["bf16"] is None and not flags["fp16"] and default == "bf16":
        return default
    return "bf16" if flags["bf16"] else "fp16" if flags["fp16"] else ""


def recipe(half: str, loaded: str, engine: str) -> str:
    """The recipe of a run of the Trainer: what it computes in, what the model was loaded in, what wraps it.

    DeepSpeed and (accelerate's) FSDP make fp32 copies of 16-bit weights where mixed precision is on; without them it is
    torch.autocast around the weights as they were loaded.
    """
    if engine in ("deepspeed", "fsdp"):
        return f"mixed-{half}" if half else loaded
    if not half:
        return loaded
    return f"amp-{half}" if loaded == "fp32" else "bf16-autocast" if loaded == "bf16" else "fp16"


def precision(sheet: Sheet, half: str, loaded: str, engine: str, *keys: str, default: str = "") -> None:
    """Set `precision`, unless DeepSpeed's config, or DeepSpeed where it is asked for without one, has."""
    if engine != "deepspeed":
        sheet.put("precision", recipe(half, loaded, engine), *(keys or ("bf16", "fp16")), default=default)


def leave_frozen(sheet: Sheet, loaded: str, engine: str, *keys: str) -> None:
    """Where adapters are trained, keep what is frozen in the dtype it was loaded in: only DeepSpeed casts all of a model."""
    given = sheet.run.get("precision")
    packed = "quantize" in sheet.run or "quantize" in sheet.asked.flags
    adapters = "lora" in sheet.run or "lora" in sheet.asked.flags
    if adapters and not packed and loaded == "fp32" and engine != "deepspeed" and given not in (None, "fp32"):
        origin = sheet.origins["precision"]
        sheet.put("precision", {"recipe": given, "frozen": "fp32"}, *keys)
        sheet.origins["precision"] = origin


def engine(sheet: Sheet, half: str, gpus: int) -> str:
    """Attach what the keys `deepspeed`, `fsdp` and `fsdp_config` name: "deepspeed", "fsdp", or "" for DDP."""
    if deepspeed.attach(sheet, "deepspeed", half, gpus):
        sheet.seen("fsdp", "fsdp_config")
        return "deepspeed"
    words = fsdp.words_of(sheet.get("fsdp"))
    section = sheet.get("fsdp_config")
    if not words:
        sheet.seen("fsdp_config")
        return asked_for(sheet, half, "bf16", "fp16")
    if isinstance(section, str) and section:
        _adopt_fsdp(sheet, section, words)
    else:
        fsdp.attach(sheet, "fsdp_config", words, version=2, wraps=True)
    return "fsdp"


def asked_for(sheet: Sheet, half: str, *keys: str) -> str:
    """The engine of the `sharding` that was asked for beside a config without one, since precision follows from it too."""
    sharding = spelled_out({"sharding": sheet.asked.flags.get("sharding", "none")})["sharding"]
    named = str(sharding["strategy"])
    if named.startswith("zero"):
        sheet.put("precision", recipe(half, "fp32", "deepspeed"), *keys, default="" if sheet.has(*keys) else SOURCE)
        return "deepspeed"
    return "fsdp" if named in ("fsdp", "hsdp") else ""


def _adopt_fsdp(sheet: Sheet, name: str, words: tuple[str, ...]) -> None:
    try:
        inner = Sheet(follow(sheet.document, name), sheet.asked, sheet.format, sheet.title)
    except UnreadableInput as error:
        raise sheet.refuse("fsdp_config", str(error)) from error
    fsdp.attach(inner, "", words, version=2, wraps=True)
    sheet.adopt(inner.reading(fsdp.IGNORED))


def optimizer(sheet: Sheet, *keys: str, default: str = "adamw_torch_fused", source: str = SOURCE) -> None:
    """Set `optimizer` from the Trainer's name of it, with a projection's targets; a fault where no preset has the name."""
    name = sheet.read(text, *keys)
    if name is None:
        sheet.put("optimizer", default, *keys, default=source)
        return
    if not _known(name):
        near = nearest_names(name, index()["optimizers"])
        sheet.fault(sheet.named(*keys), f"{name!r} is no optimizer that memcalc knows"
                    + (f"; did you mean {' or '.join(near)}?" if near else "; list them with: memcalc optimizers"))  # fmt: skip
        return
    options = _projection(sheet)
    sheet.put("optimizer", {"name": name, **options} if options else name, *keys)


def _known(name: str) -> bool:
    try:
        return bool(resolve(name).name)
    except UnknownName:
        return False


def _projection(sheet: Sheet) -> dict[str, Any]:
    """The rank that `optim_args` gives a low-rank optimizer ("rank=128, update_proj_gap=200")."""
    sheet.seen("optim_args", "optim_target_modules")
    pairs = (part.partition("=") for part in str(sheet.get("optim_args") or "").split(","))
    ranks = [value.strip() for key, _, value in pairs if key.strip() == "rank"]
    return {"rank": int(ranks[-1])} if ranks and ranks[-1].isdigit() else {}


def checkpointing(sheet: Sheet, *, default: bool = False, source: str = SOURCE, reentrant: bool = False,
                  keys: Iterable[str] = ("activation_checkpointing", "gradient_checkpointing")) -> None:  # fmt: skip
    """Set `checkpointing` from the switch and its keyword arguments; `default` where the switch is not written."""
    names = tuple(keys)
    sheet.seen(*(f"{name}_kwargs" for name in names))

    def option(convert: Callable[[Any], Any], word: str, otherwise: Any) -> Any:  # noqa: ANN401
        return sheet.read(convert, *(f"{name}_kwargs.{word}" for name in names), default=otherwise)

    on = sheet.read(truth, *names)
    said = "" if on is not None else source
    if on is None:
        on = default
    if not on:
        sheet.put("checkpointing", "none", *names[:1] if said else (sheet.named(*names),), default=said)
        return
    made: dict[str, Any] = {"mode": "selective" if option(truth, "selective", False) else "full"}
    if option(truth, "use_reentrant", reentrant):
        made["reentrant"] = True
    if (every := option(whole, "every_n_layers", 1)) > 1:
        made["every"] = every
    if option(truth, "offload", False):
        made["offload"] = True
    sheet.put("checkpointing", made, sheet.named(*names), default=said)


def attention(sheet: Sheet, *keys: str) -> None:
    """Set `attention` from transformers' `attn_implementation`, where it is written."""
    word = sheet.read(text, *keys)
    if word is None or word in ("", "auto"):
        return
    lower = word.lower()
    known = next(
        (ours for mark, ours in (("flash", "flash"), ("sdpa", "sdpa"), ("eager", "eager")) if mark in lower), None
    )
    if known is None:
        sheet.warn(sheet.named(*keys), "not-modelled", f"attention {word} is counted as flash: no scores are kept")
    sheet.put("attention", known or "flash", sheet.named(*keys))


def liger(sheet: Sheet, *keys: str, model: Any = None) -> None:  # noqa: ANN401, ARG001 - which models it has is checked later
    """Set `implementation: hf-liger` and its fused loss where the kernels are switched on."""
    if sheet.read(truth, *keys, default=False):
        sheet.put("implementation", "hf-liger", sheet.named(*keys))
        sheet.put("loss", "fused-linear", sheet.named(*keys))
