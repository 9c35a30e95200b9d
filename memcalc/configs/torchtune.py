"""torchtune's recipes' YAML: a tree of `_component_`s; the recipe that it is made for is named in its comments only.

Sources are those of torchtune 0.6.1 (recipes/*.py, torchtune/models). Its traps:

* `dtype: bf16` is pure: weights, gradients and optimizer states, and LoRA's adapters too; there is no mixed precision.
* Without `tokenizer.max_seq_len` a batch is as long as its longest sample.
* The number of GPUs, and whether the recipe shards at all, stands in the launch line of the comments.
* `optimizer_in_bwd` frees each gradient in the backward pass; `quantize_base` (a `qlora_` builder) stores every linear
  layer but the output as torchao's NF4.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import losses
from memcalc.configs.follow import interpolated
from memcalc.configs.modules import put_modules
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Key, Sheet
from memcalc.configs.torchtune_models import adapters, builder, learns, model_of
from memcalc.configs.words import mapping, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "torchtune"
TITLE: Final = "torchtune"
MODEL: Final = ("model", "policy_model")

_LAUNCH: Final = re.compile(r"tune\s+run\s[^\n]*?--nproc[-_]per[-_]node[= ](\d+)")
_NODES: Final = re.compile(r"--nnodes[= ](\d+)")
_SINGLE: Final = re.compile(r"tune\s+run\s+(?:\S*/)?\w*single_device")
_GET: Final = "cfg.get in recipes/full_finetune_distributed.py"
_KEYS: Final = (
    Key(("tokenizer.max_seq_len", "dataset.max_seq_len"), "seq_len", whole),
    Key("gradient_accumulation_steps", "grad_accum", whole, 1, "recipes take it from the config; one step without"),
    Key("tensor_parallel_dim", "parallel.tensor", whole),
    Key("context_parallel_dim", "parallel.context", whole),
)
_IGNORED: Final = (
    "output_dir", "name", "seed", "shuffle", "epochs", "max_steps_per_epoch", "lr_scheduler*", "device", "metric_logger*",
    "log_*", "low_cpu_ram", "profiler*", "resume_from_checkpoint", "save_*", "checkpointer*", "*checkpointer", "*checkpointer.*",
    "tokenizer*", "dataset*", "collate_fn", "run_val_every_n_steps", "batch_size_val", "cudnn_deterministic_mode",
    "temperature", "top_k", "grad_clip", "num_steps", "ppo_epochs", "min_response_length", "penalise_no_eos",
    "reward_*", "stop_token_ids", "whiten_rewards", "gamma", "lmbda", "kl_coeff", "kd_ratio", "base_model_path",
    "model_dir", "max_eval_*", "inference*", "postprocessing*", "orchestration*", "debug_*", "training.save*",
    "training.ppo_epochs", "training.seed", "training.steps_*", "training.dataloader*", "training.max_steps*",
    "data_parallel_*", "tensor_parallel_plan*", "context_parallel_rotate_method", "clip_grad_norm",
    "training.clip_grad_norm", "shuffle_buffer_size", "dist_*", "enable_async_checkpointing", "keep_last_*", "mlp_*",
    "loss.*", "kd_loss*", "optimizer.*", "training.loss.*", "training.optimizer.*", "hf_output*", "checkpoint_*",
    "ac_option", "memory_stats*", "peak_memory*", "epochs_run", "data_dir", "prompt*", "package*", "generation*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By `_component_`s of torchtune's."""
    components = [value.get("_component_") for value in document.data.values() if isinstance(value, dict)]
    return 95 if any(str(component or "").startswith("torchtune.") for component in components) else 0


def read(document: Document, asked: Asked) -> Reading:
    """A recipe's config."""
    sheet = Sheet(interpolated(document), asked, NAME, TITLE)
    found = builder(sheet, *MODEL)
    gpus = _gpus(sheet)
    sheet.fill(_KEYS)
    model_of(sheet, *MODEL, named="model")
    _precision(sheet)
    _adapters(sheet, found)
    _step(sheet)
    _checkpointing(sheet)
    _loss(sheet)
    if gpus > 1:
        _sharding(sheet)
    _preferences(sheet)
    _length(sheet)
    sheet.unmodelled({
        "quantizer": "quantisation-aware training fakes quantised weights and activations: more memory than is shown",
    })  # fmt: skip
    sheet.seen("quantizer.*")
    if sheet.read(truth, "dataset.packed", "packed", default=False):
        sheet.assume("packing", "packed-rows", "packed rows are as long as tokenizer.max_seq_len, each one of the batch; the masks "
                     "of their blocks (flex attention) are small")  # fmt: skip
    put_modules(sheet, "torchtune", "compile", "training.compile")
    sheet.seen("compile.*")
    return sheet.reading(_IGNORED)


def _gpus(sheet: Sheet) -> int:
    """The GPUs: as asked, as workers of an asynchronous run, as in the launch line of the comments, or one."""
    workers = sheet.read(whole, "orchestration.num_training_workers")
    if workers or sheet.asked.gpus:
        return sheet.gpus("orchestration.num_training_workers", count=workers)
    launch = _LAUNCH.search(sheet.document.text)
    if launch:
        nodes = _NODES.search(launch[0])
        count = int(launch[1]) * int(nodes[1] if nodes else 1)
        sheet.put("gpus", count, default="the launch line in the comments")
        sheet.assume("gpus", "launch-line", f"{count} GPUs, as in the launch line of the comments: {launch[0]}")
        return count
    if _SINGLE.search(sheet.document.text):
        sheet.put("gpus", 1, default="the recipe of the launch line in the comments, for a single device")
        return 1
    return sheet.gpus()


def _precision(sheet: Sheet) -> None:
    dtype = sheet.read(text, "dtype")
    sheet.put("precision", dtype or "fp32", "dtype", default="torchtune.training.get_dtype: fp32 where it is not set")


def _adapters(sheet: Sheet, found: str) -> None:
    """LoRA, where the builder's name says so, else what of a model of several towers learns."""
    lora = adapters(sheet, found, str(sheet.run.get("precision")), *MODEL)
    if lora is None:
        learns(sheet, *MODEL)


def _step(sheet: Sheet) -> None:
    """Micro batch and optimizer."""
    at = "training." if sheet.has("training.optimizer") else ""
    rows = sheet.read(whole, f"{at}batch_size")
    if sheet.has("ppo_batch_size"):
        made = sheet.read(whole, "ppo_batch_size", default=1) // max(1, sheet.run.get("grad_accum", 1))
        sheet.put("batch_size", max(1, made), "ppo_batch_size", "gradient_accumulation_steps")
    elif rows:
        samples = sheet.read(whole, "grpo_samples", default=1)
        sheet.put("batch_size", rows * samples, f"{at}batch_size", *(("grpo_samples",) if samples > 1 else ()))
    sheet.seen("forward_batch_size", "enable_kv_cache", "batch_size")
    in_backward = sheet.read(truth, "optimizer_in_bwd", default=False)
    name = sheet.read(text, f"{at}optimizer._component_", f"{at}optimizer")
    if name:
        settings = sheet.read(mapping, f"{at}optimizer", default={})
        put_optimizer(sheet, name, settings, f"{at}optimizer._component_", in_backward=in_backward)


def _checkpointing(sheet: Sheet) -> None:
    at = "training." if sheet.has("training.enable_activation_checkpointing") else ""
    key, offload = f"{at}enable_activation_checkpointing", f"{at}enable_activation_offloading"
    if sheet.read(text, "ac_mode") == "selective":
        every = sheet.get("ac_option")
        if str(every).isdigit():
            sheet.put("checkpointing", {"mode": "full", "every": int(every)}, "ac_mode")
        else:
            sheet.put("checkpointing", "selective", "ac_mode")
        return
    on, moved = sheet.read(truth, key, default=False), sheet.read(truth, offload, default=False)
    mode: Any = {"mode": "full", "offload": True} if on and moved else "full" if on else "none"
    sheet.put("checkpointing", mode, key, default=_GET)
    if moved and not on:
        sheet.put("offload", "activations", offload)


def _loss(sheet: Sheet) -> None:
    """Losses that take the logits chunk by chunk: eight chunks by default (torchtune/modules/loss)."""
    at = "training.loss" if sheet.has("training.loss") else "loss"
    name = str(sheet.get(f"{at}._component_", default=""))
    if "Chunked" in name or "Linear" in name:
        chunks = sheet.read(whole, f"{at}.num_output_chunks", default=8)
        sheet.put("loss", {"kind": "chunked", "chunks": chunks}, f"{at}._component_")


def _sharding(sheet: Sheet) -> None:
    """FSDP2 over every layer; `custom_sharded_layers` name the embedding and the output (training/_distributed.py)."""
    replicate = sheet.read(whole, "data_parallel_replicate_dim", default=1)
    options: dict[str, Any] = {"strategy": "hsdp" if replicate > 1 else "fsdp", "version": 2}
    if replicate > 1:
        options["replicate"] = replicate
    if sheet.get("custom_sharded_layers"):
        options["wrap"] = "layers+embed+head"
    options["no_sync"] = False  # every micro batch reduces its gradients
    options["reshard_after_forward"] = sheet.read(truth, "fsdp_reshard_after_forward", default=True)
    if sheet.read(truth, "fsdp_cpu_offload", "fsdp.cpu_offload", default=False):
        options["cpu_offload"] = True
    sheet.put(
        "sharding", options, default="fully_shard in torchtune/training/_distributed.py, where several GPUs are used"
    )


def _preferences(sheet: Sheet) -> None:
    """What runs beside the model: DPO's two rows a pair and its reference, PPO's and distillation's models."""
    name = str(sheet.get("loss._component_", "training.loss._component_", default=""))
    dtype = str(sheet.run.get("precision"))
    companions: list[dict[str, Any]] = []
    if any(word in name for word in ("DPO", "RSO", "SimPO")):
        sheet.put("batch_size", 2 * sheet.run.get("batch_size", 1), "batch_size")
        sheet.assume(
            "batch_size", "pairs", "a pair is two rows: chosen and rejected are concatenated in one forward pass"
        )
        sheet.put("loss", "log-softmax", "loss._component_")  # get_batch_log_probs (rlhf/_generation.py)
        if "SimPO" not in name:
            companions.append(losses.SHARED if "lora" in sheet.run else {"role": "reference", "dtype": dtype})
    elif ("PPO" in name or "GRPO" in name) and not sheet.has("postprocessing"):
        companions.append({"role": "reference", "dtype": dtype, "after": False})
    if sheet.has("reward_and_value_model"):
        value = model_of(sheet, "reward_and_value_model")
        companions += [{"role": "reward", "model": value, "dtype": dtype},
                       {"role": "value", "model": value, "dtype": dtype, "trainable": True}]  # fmt: skip
    if sheet.has("teacher_model"):
        companions.append({"role": "teacher", "model": model_of(sheet, "teacher_model"), "dtype": dtype})
    if companions:
        sheet.put("companions", companions, *(k for k in ("reward_and_value_model", "teacher_model") if sheet.has(k)),
                  default="the recipe loads them in the model's dtype")  # fmt: skip


def _length(sheet: Sheet) -> None:
    """Add what is generated to the prompt's length; say so where there is no length at all."""
    new = sheet.read(number, "max_generated_tokens", "inference.max_generated_tokens")
    if new and "seq_len" in sheet.run:
        sheet.put("seq_len", int(sheet.run["seq_len"] + new), "tokenizer.max_seq_len", "max_generated_tokens")
    if "seq_len" not in sheet.run:
        sheet.assume("seq_len", "longest-sample", "no tokenizer.max_seq_len: a batch is as long as its longest sample; "
                     "say how long with --seq-len")  # fmt: skip
