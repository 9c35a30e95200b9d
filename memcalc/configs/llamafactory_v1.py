"""LLaMA-Factory's newer schema (llamafactory.v1, `USE_V1=1`): `model`, and sections that each name a plugin.

Sources are those of LLaMA-Factory 0.9.5 (src/llamafactory/v1). Weights are loaded as the checkpoint is (`dtype="auto"`)
and stay so: FSDP2 gathers in bf16 and reduces in fp32, and the optimizer's states are of the weights' dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import deepspeed
from memcalc.configs.llamafactory_parts import targets
from memcalc.configs.names import model
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Key
from memcalc.configs.words import names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Reading
    from memcalc.configs.table import Sheet

_SECTIONS: Final = frozenset({"dist_config", "peft_config", "kernel_config", "optim_config", "quant_config", "init_config",
                              "lr_scheduler_config"})  # fmt: skip
_ARGS: Final = "llamafactory/v1/config/training_args.py"
_KEYS: Final = (
    Key("micro_batch_size", "batch_size", whole, 1, _ARGS),
    Key("cutoff_len", "seq_len", whole, 2048, _ARGS),
)
_IGNORED: Final = (
    "train_dataset", "eval_dataset", "output_dir", "learning_rate", "num_train_epochs", "max_steps", "max_grad_norm", "seed",
    "model_class", "template", "trust_remote_code", "sample_backend", "max_new_tokens", "init_config*", "lr_scheduler_config*",
    "save_*", "logging_*", "full_determinism", "resume_from_checkpoint", "batching_*", "optim_config.*", "dist_config.*",
    "kernel_config.*", "peft_config.*", "quant_config.*", "report_to", "run_name", "warmup*", "temperature", "top_p",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By its sections."""
    data = document.data
    return 85 if isinstance(data.get("model"), str) and _SECTIONS & data.keys() and "cutoff_len" in data else 0


def read(sheet: Sheet) -> Reading:
    """The run of a file of this schema."""
    model(sheet, "model")
    gpus = sheet.gpus()
    half = "bf16" if sheet.read(truth, "bf16", default=True) else ""
    sheet.fill(_KEYS)
    sheet.put("precision", "bf16", "bf16", default="llamafactory/v1/core/model_engine.py: dtype auto, here bf16")
    _engine(sheet, half, gpus)
    total = sheet.read(whole, "global_batch_size")
    if total:
        sheet.put(
            "grad_accum", max(1, total // (gpus * sheet.run["batch_size"])), "global_batch_size", "micro_batch_size"
        )
    _adapters(sheet)
    _optimizer(sheet)
    on = sheet.read(truth, "enable_activation_checkpointing", default=True)
    sheet.put("checkpointing", "full" if on else "none", "enable_activation_checkpointing", default=_ARGS)
    word = sheet.read(text, "flash_attn", default="sdpa")
    sheet.put(
        "attention", "flash" if "flash" in word else word, "flash_attn", default="llamafactory/v1/config/model_args.py"
    )
    if sheet.get("kernel_config.name") == "liger_kernel":
        sheet.put("implementation", "hf-liger", "kernel_config.name")
        sheet.put("loss", "fused-linear", "kernel_config.name")
    return sheet.reading(_IGNORED)


def _engine(sheet: Sheet, half: str, gpus: int) -> None:
    name = sheet.read(text, "dist_config.name", default="")
    if name == "deepspeed" and sheet.has("dist_config.config_file"):
        deepspeed.attach(sheet, "dist_config.config_file", half, gpus)
    elif name == "fsdp2" and gpus > 1:
        options: dict[str, Any] = {
            "strategy": "fsdp", "version": 2, "wrap": "layers", "no_sync": False,
            "reshard_after_forward": sheet.read(truth, "dist_config.reshard_after_forward", default=True),
            "param_dtype": half or "fp32", "reduce_dtype": "fp32",
        }  # fmt: skip
        if sheet.read(truth, "dist_config.offload_params", default=False):
            options["offload_params"] = True
        sheet.put("sharding", options, "dist_config.name")
    elif name not in ("", "fsdp2", "deepspeed", "ddp"):
        sheet.warn("dist_config.name", "not-modelled", f"{name} is counted as copies on every GPU")


def _adapters(sheet: Sheet) -> None:
    at = "peft_config"
    kind = sheet.read(text, f"{at}.name", default="")
    if kind == "freeze":
        sheet.warn(
            f"{at}.name",
            "not-modelled",
            "layers that are frozen are counted as trained; say which learn with --set train",
        )
    if kind != "lora":
        return
    sheet.fill((
        Key(f"{at}.r", "lora.rank", whole, 8, "peft/tuners/lora/config.py"), Key(f"{at}.lora_alpha", "lora.alpha", number),
        Key(f"{at}.lora_dropout", "lora.dropout", number), Key(f"{at}.target_modules", "lora.targets", targets),
        Key(f"{at}.use_dora", "lora.dora", truth), Key(f"{at}.use_rslora", "lora.rslora", truth),
        Key(f"{at}.modules_to_save", "lora.save_modules", names),
    ))  # fmt: skip
    bits = sheet.read(whole, "quant_config.quantization_bit", default=0)
    if bits:
        sheet.put("quantize", {4: "nf4-double", 8: "int8"}.get(bits, "nf4-double"), "quant_config.quantization_bit")


def _optimizer(sheet: Sheet) -> None:
    name = sheet.read(text, "optim_config.name", default="")
    put_optimizer(sheet, name or "torch.optim.AdamW", {}, "optim_config.name",
                  default="" if name else "llamafactory/v1/core/base_trainer.py")  # fmt: skip
