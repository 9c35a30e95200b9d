"""transformers' TrainingArguments, as JSON or YAML: a script's batch, precision, optimizer and engine.

The model is the script's; some files name it under `model_name_or_path`, as the example scripts' arguments do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memcalc.configs import losses, trainer
from memcalc.configs.lora import of_script
from memcalc.configs.names import model
from memcalc.configs.table import Sheet
from memcalc.configs.words import truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "training-arguments"
TITLE: Final = "TrainingArguments"
IGNORED: Final = (
    *trainer.IGNORED, "dataset*", "model_revision", "trust_remote_code", "torch_dtype", "dtype", "train_file", "validation_file",
    "cache_dir", "use_fast_tokenizer", "tokenizer_name", "config_name", "preprocessing_num_workers", "overwrite_cache", "token",
    "max_train_samples", "max_eval_samples", "validation_split_percentage", "streaming", "_n_gpu", "distributed_state",
    "deepspeed_plugin", "hf_deepspeed_config", "parallelism_config*", "generation_*", "use_cache", "model_type", "config_overrides",
)  # fmt: skip
_TELLING: Final = frozenset({
    "per_device_train_batch_size", "gradient_accumulation_steps", "output_dir", "num_train_epochs", "lr_scheduler_type",
    "save_strategy", "logging_steps", "warmup_ratio", "per_device_eval_batch_size", "gradient_checkpointing", "optim",
    "activation_checkpointing", "adam_beta1", "logging_dir", "max_grad_norm", "learning_rate", "warmup_steps", "weight_decay",
})  # fmt: skip


def recognises(document: Document) -> int:
    """By three and more of its keys; configs that are built on it have keys of their own and are surer."""
    found = len(_TELLING & document.data.keys())
    return 30 if found >= 3 and "per_device_train_batch_size" in document.data else 20 if found >= 5 else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of a file, of a model that is asked for or named under model_name_or_path."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet, "model_name_or_path", "model_name")
    gpus = sheet.gpus()
    half = trainer.half_of(sheet)
    engine = trainer.engine(sheet, half, gpus)
    loaded = {"bfloat16": "bf16", "float16": "fp16"}.get(
        str(sheet.get("torch_dtype", "dtype")).removeprefix("torch."), "fp32"
    )
    if not (engine and half) and not sheet.has("torch_dtype", "dtype"):
        sheet.assume(
            "precision", "loaded-in-fp32", "the script is taken to load the model in fp32 (--precision says otherwise)"
        )
    trainer.precision(sheet, half, loaded, engine, default="" if sheet.has("bf16", "fp16") else trainer.SOURCE)
    if of_script(sheet):
        sheet.put(
            "lora.dtype", half if engine == "deepspeed" and half else "fp32", default="peft: autocast_adapter_dtype"
        )
    trainer.leave_frozen(sheet, loaded, engine, "torch_dtype", "dtype")
    sheet.fill(trainer.BATCH)
    trainer.optimizer(sheet, "optim")
    if sheet.read(truth, "adafactor", default=False):
        sheet.put("optimizer", "adafactor", "adafactor")
    trainer.checkpointing(sheet)
    trainer.attention(sheet, "attn_implementation")
    trainer.liger(sheet, "use_liger_kernel")
    losses.smoothing(sheet)
    length = sheet.read(whole, "max_seq_length", "block_size", "model_max_length", "max_length")
    if length:
        sheet.put("seq_len", length, sheet.named("max_seq_length", "block_size", "model_max_length", "max_length"))
    sheet.unmodelled(trainer.UNMODELLED)
    return sheet.reading(IGNORED)
