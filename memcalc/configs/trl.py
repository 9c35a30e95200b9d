"""TRL's YAML (`trl sft --config`): one flat file of a trainer's config, its ModelConfig and its script's arguments.

trl/trainer/{sft,dpo,grpo,rloo,kto,reward}_config.py and model_config.py (f2cd5771; 1.16 where it differs). Which trainer runs
is said by the command, not by the file: it is read from the keys that only one of them has, then from the names that the
file gives its outputs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import losses, trainer
from memcalc.configs.heads import scored
from memcalc.configs.lora import of_trl
from memcalc.configs.names import companion, model
from memcalc.configs.table import Sheet
from memcalc.configs.words import FLOATS, names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "trl"
TITLE: Final = "TRL"
SOURCE: Final = "trl/trainer/{}_config.py"
COMMAND: Final = "trl_command"  # a key that holds which trainer a command line names
MODEL: Final = "trl/trainer/model_config.py"

# keys that only one kind of trainer has
_TELLING: Final = {
    "ppo": ("num_ppo_epochs", "response_length", "reward_model_path", "sft_model_path", "vf_coef", "cliprange_value"),
    "rloo": ("rloo_k", "normalize_advantages", "reward_clip_range"),
    "grpo": ("num_generations", "max_completion_length", "use_vllm", "epsilon_high", "reward_funcs", "steps_per_generation",
             "scale_rewards", "reward_weights", "vllm_mode", "num_completions_to_print"),
    "kto": ("desirable_weight", "undesirable_weight"),
    "gkd": ("teacher_model_name_or_path", "teacher_model", "lmbda", "seq_kd"),
    "cpo": ("cpo_alpha", "simpo_gamma"),
    "reward": ("center_rewards_coefficient",),
    "dpo": ("precompute_ref_log_probs", "loss_weights", "rpo_alpha", "f_divergence_type", "reference_free", "ld_alpha",
            "use_weighting", "discopop_tau", "truncation_mode", "use_logits_to_keep", "ref_model_init_kwargs", "beta"),
    "sft": ("packing", "max_seq_length", "dataset_text_field", "assistant_only_loss", "completion_only_loss",
            "packing_strategy", "eval_packing", "dataset_kwargs"),
}  # fmt: skip
_LOSSES: Final = {"kto": "kto", "apo_zero_unpaired": "kto", "simpo": "cpo"}
_NAMED: Final = re.compile(
    r"(?<![a-z])(orpo|kto|cpo|simpo|rloo|grpo|ppo|dpo|gkd|distillation|sft|reward)(?![a-z])", re.IGNORECASE
)
_PREFERENCE: Final = ("dpo", "kto", "orpo", "cpo")
_ONLINE: Final = ("grpo", "rloo", "ppo", "distillation")
IGNORED: Final = (
    *trainer.IGNORED, "env*", "dataset*", "model_revision", "trust_remote_code", "chat_template*", "eos_token",
    "pad_token", "learning_rate", "label_pad_token_id", "padding_value", "is_encoder_decoder", "disable_dropout",
    "label_smoothing", "label_smoothing_factor", "system_prompt", "max_prompt_length", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "generation_*", "epsilon*", "delta", "scale_rewards", "loss_weights", "reward_*",
    "rpo_alpha", "f_divergence*", "f_alpha*", "ld_alpha", "truncation_mode", "ref_model_mixup_alpha",
    "ref_model_sync_steps", "log_completions*", "num_completions_to_print", "log_unique_prompts", "wandb_*", "vllm_*",
    "shuffle_dataset", "mask_truncated_completions", "importance_sampling_level", "num_iterations",
    "top_entropy_quantile", "ds3_gather_for_generation", "desirable_weight", "undesirable_weight", "cpo_alpha",
    "simpo_gamma", "pad_to_multiple_of", "config", "eval_packing", "dataset_kwargs", "completion_only_loss",
    "assistant_only_loss", "skip_prepare_dataset", "preprocessing_num_workers", "auto_insert_empty_system_msg",
    "center_rewards_coefficient", "benchmarks", "callbacks", "hub_*", "num_train_steps", "code_*", "stop_token*",
    "missing_eos_penalty", "kl_coef", "kl_estimator", "cliprange*", "vf_coef", "gamma", "lam", "whiten_rewards",
    "num_ppo_epochs", "num_mini_batches", "num_sample_generations", "exp_name", "world_size", "total_episodes",
    "lmbda", "seq_kd", "model_code_revision", "tokenizer_name_or_path", "ddp_*", "use_logits_to_keep",
    "precompute_ref_batch_size", "script_args*", "normalize_advantages", "sync_ref_model",
    "local_rollout_forward_batch_size", "bnb_4bit_compute_dtype", "gradient_checkpointing_use_*",
    "ignore_bias_buffers", "model_init_kwargs", "ref_model_init_kwargs", "num_proc", "streaming", "decontaminate",
    "entropy_*", "router_aux_loss_coef", "use_weighting", "discopop_tau", "reference_free", "force_use_ref_model",
    "token_level*", "e2e_*", "cache_implementation", "max_tool_calling_iterations", "multi_objective_aggregation",
    "num_generations_eval", "off_policy_mask_threshold", "sapo_*", "vespo_*", "use_bias_correction_kl", "use_adaptive_entropy",
    "*transformers_continuous_batching*", "use_transformers_paged", "teacher_model_revision", "teacher_model_init_kwargs*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """A named model beside the Trainer's keys and TRL's own, without those of LLaMA-Factory and others that are alike."""
    data = document.data
    if (
        not {"model_name_or_path", "sft_model_path"} & data.keys()
        or {"finetuning_type", "stage", "template"} & data.keys()
    ):
        return 0
    own = {key for keys in _TELLING.values() for key in keys} | {
        "use_peft", "lora_target_modules", "torch_dtype", "dtype", "attn_implementation", "load_in_4bit", "dataset_mixture",
        "dataset_name", "bnb_4bit_quant_type", "max_length", "model_revision",
    }  # fmt: skip
    return min(40 + 5 * len(own & data.keys()), 75) if own & data.keys() else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of a file: what the command would train, with the models it holds beside the policy."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet, "model_name_or_path", "sft_model_path")
    gpus = sheet.gpus()
    task = _task(sheet)
    half = trainer.half_of(sheet, default="bf16")
    loaded = _loaded(sheet)
    engine = trainer.engine(sheet, half, gpus)
    trainer.precision(sheet, half, loaded, engine, "bf16", "fp16", "dtype", "torch_dtype",
                      default="" if sheet.has("bf16", "fp16") else "trl/trainer/base_config.py: bf16 unless fp16")  # fmt: skip
    sheet.fill(trainer.BATCH)
    trainer.optimizer(sheet, "optim")
    trainer.checkpointing(sheet, default=True, source="trl/trainer/base_config.py")
    trainer.attention(sheet, "attn_implementation")
    trainer.liger(sheet, "use_liger_kernel", "use_liger", "use_liger_loss")
    adapters = of_trl(sheet, MODEL)
    trainer.leave_frozen(sheet, loaded, engine, "dtype", "torch_dtype")
    if adapters:
        _with_adapters(sheet, task)
    _lengths(sheet, task)
    _companions(sheet, task, loaded, adapters)
    _generation(sheet, task)
    if sheet.read(truth, "activation_offloading", default=False):
        sheet.put("offload", "activations", "activation_offloading")
    losses.of_trl(sheet, task, "loss_type")
    if task == "reward":
        scored(sheet, "model_name_or_path")
    if task == "sft" and "dft" not in sheet.read(names, "loss_type", default=[]):
        losses.smoothing(sheet)  # no other loss of TRL's asks the Trainer's label smoother
    sheet.unmodelled(trainer.UNMODELLED)
    sheet.seen(*(key for keys in _TELLING.values() for key in keys))
    return sheet.reading(IGNORED)


def _task(sheet: Sheet) -> str:
    """Which trainer: by its own keys; among the preference trainers, by the names that the file gives its outputs."""
    written = sheet.read(names, "loss_type", default=[])
    command = str(sheet.get(COMMAND, default=""))
    if (
        sheet.has("teacher_model_name_or_path")
        and sheet.has("max_completion_length")
        and not sheet.has("lmbda", "seq_kd")
    ):
        command = "distillation"
    if command in ("orpo", "distillation", *_TELLING):
        return "cpo" if command == "simpo" else command
    found = next((_LOSSES[loss] for loss in written if loss in _LOSSES), None)
    found = found or next((task for task, keys in _TELLING.items() if sheet.has(*keys)), "sft")
    if found == "dpo" and sheet.has("packing") and not sheet.has("beta", "precompute_ref_log_probs"):
        found = "sft"
    said = _named_task(sheet)
    if found in ("dpo", "sft") and said and said != found and (found == "sft" or said in _PREFERENCE):
        sheet.assume("model", "task", f"the file's own names say {said.upper()}; its keys fit that as well")
        return said
    if found != "sft" or said != "sft":
        sheet.assume("model", "task", f"read as {found.upper()}, by the keys it has")
    return found


def _named_task(sheet: Sheet) -> str:
    """The trainer that the file's outputs are named after; '' where they say none."""
    for key in ("output_dir", "run_name", "hub_model_id"):
        match = _NAMED.search(str(sheet.get(key) or "").replace("_", "-"))
        if match:
            return match[1].lower().replace("simpo", "cpo")
    return ""


def _loaded(sheet: Sheet) -> str:
    """What from_pretrained loads the weights in: `dtype` (before 0.25 `torch_dtype`), fp32 where that says nothing."""
    written = sheet.read(
        text, "dtype", "torch_dtype", "model_init_kwargs.dtype", "model_init_kwargs.torch_dtype", default=""
    )
    known_as = {**FLOATS, "half": "fp16", "": "fp32"}
    if written.lower() == "auto":
        sheet.assume("precision", "dtype-auto", "`dtype: auto` follows the checkpoint: bf16 is assumed")
        return "bf16"
    if written.lower() not in known_as:
        sheet.fault(sheet.named("dtype", "torch_dtype"), f"{written!r} is none of float32, bfloat16, float16, auto")
    if not written:
        sheet.assume(
            "precision", "loaded-in-fp32", "no dtype is written: the weights are loaded in fp32 (model_config.py)"
        )
    return known_as.get(written.lower(), "fp32")


def _with_adapters(sheet: Sheet, task: str) -> None:
    """What the trainers change for adapters: no dropout where preferences are compared, re-entrance under ZeRO-3."""
    if task in ("dpo", "kto", "orpo", "cpo", "reward") and sheet.read(truth, "disable_dropout", default=True):
        sheet.put(
            "lora.dropout", 0.0, "disable_dropout", default="" if sheet.has("disable_dropout") else SOURCE.format(task)
        )
    checkpointing = sheet.run.get("checkpointing")
    if isinstance(checkpointing, dict) and sheet.run.get("sharding", {}).get("strategy") == "zero3":
        sheet.put(
            "checkpointing.reentrant", True, "deepspeed", default="" if sheet.has("deepspeed") else SOURCE.format(task)
        )


def _lengths(sheet: Sheet, task: str) -> None:
    """Tokens of a sequence and sequences of a step; a preference pair is two sequences of one forward pass."""
    if task in _ONLINE:
        _generated_length(sheet, task)
    else:
        default = "" if sheet.has("max_length", "max_seq_length") else SOURCE.format(task)
        sheet.put("seq_len", sheet.read(whole, "max_length", "max_seq_length", default=1024), "max_length", "max_seq_length",
                  default=default)  # fmt: skip
    if task in ("dpo", "orpo", "cpo", "reward"):
        rows = sheet.run["batch_size"]
        origin = sheet.origins["batch_size"]
        sheet.put("batch_size", 2 * rows, "per_device_train_batch_size")
        sheet.origins["batch_size"] = origin
        sheet.assume(
            "batch_size",
            "pairs",
            f"{rows} pairs of a chosen and a rejected sequence are {2 * rows} sequences of one pass",
        )
    packed = [key for key in ("packing", "padding_free") if sheet.read(truth, key, default=False)]
    if packed and (packed[0] != "packing" or sheet.read(text, "packing_strategy", default="bfd") != "wrapped"):
        sheet.put("packing", True, packed[0])


def _generated_length(sheet: Sheet, task: str) -> None:
    """A prompt and its completion."""
    prompt = sheet.read(whole, "max_prompt_length", default=512)
    keys = ("response_length",) if task == "ppo" else ("max_completion_length",)
    made = sheet.read(whole, *keys, default=53 if task == "ppo" else 512)
    sheet.put("seq_len", prompt + made, *keys, default="" if sheet.has(*keys) else SOURCE.format(task))
    if not sheet.has("max_prompt_length"):
        sheet.assume("seq_len", "prompt-length", "prompts of 512 tokens: the file does not bound them")


def _companions(sheet: Sheet, task: str, loaded: str, adapters: bool) -> None:
    """The models beside the policy, each where its trainer makes one."""
    made = [*_reference(sheet, task, loaded, adapters)]
    if task == "ppo":
        made += [{"role": "reward", "model": companion(sheet, "reward_model_path"), "dtype": loaded},
                 {"role": "value", "model": companion(sheet, "reward_model_path"), "trainable": True}]  # fmt: skip
    judges = (
        names(sheet.get("reward_model_name_or_path"))
        if task in ("grpo", "rloo") and sheet.has("reward_model_name_or_path")
        else []
    )
    made += [
        {"role": "reward", "model": companion(sheet, "reward_model_name_or_path"), "dtype": loaded} for _ in judges
    ]
    if task in ("gkd", "distillation") and sheet.has("teacher_model_name_or_path", "teacher_model"):
        made.append(
            {
                "role": "teacher",
                "model": companion(sheet, "teacher_model_name_or_path", "teacher_model"),
                "dtype": loaded,
            }
        )
    if made:
        sheet.put("companions", made, "beta", default=f"trl/trainer/{task}_trainer.py")


def _reference(sheet: Sheet, task: str, loaded: str, adapters: bool) -> list[dict[str, Any]]:
    """A frozen copy of the policy, unless adapters can be switched off or its log-probabilities are known beforehand."""
    beta = sheet.read(number, "beta", default={"rloo": 0.05}.get(task, 0.0 if task == "grpo" else 0.1))
    kept = {
        "dpo": not sheet.read(truth, "precompute_ref_log_probs", default=False),
        "kto": not sheet.read(truth, "precompute_ref_log_probs", default=False),
        "grpo": beta != 0, "rloo": beta != 0, "ppo": True,
    }  # fmt: skip
    synced = sheet.read(truth, "sync_ref_model", default=False)
    if not kept.get(task) or sheet.read(truth, "reference_free", default=False):
        return []
    before = {"after": False} if task in _ONLINE else {}  # it runs when the completions are there
    if adapters and not synced:
        return [{**losses.SHARED, **before}]
    return [{"role": "reference", "model": "same", **({} if loaded == "fp32" else {"dtype": loaded}), **before}]


def _generation(sheet: Sheet, task: str) -> None:
    """What stays out of reach of the training step: vLLM's share of the GPU; what the numbers leave out."""
    if task not in _ONLINE:
        return
    colocated = sheet.read(text, "vllm_mode", default="colocate") == "colocate"
    asleep = sheet.read(truth, "vllm_enable_sleep_mode", default=False)
    if sheet.read(truth, "use_vllm", default=False) and colocated and not asleep:
        share = sheet.read(number, "vllm_gpu_memory_utilization", default=0.3)
        sheet.put("margin", f"{100 * share:g}%", "vllm_gpu_memory_utilization",
                  default="" if sheet.has("vllm_gpu_memory_utilization") else SOURCE.format(task))  # fmt: skip
    elif not sheet.has("use_vllm") or not sheet.read(truth, "use_vllm", default=False):
        sheet.warn(
            sheet.named("num_generations"),
            "not-modelled",
            "what generating the completions takes is not counted; its cache of keys and values may be the peak",
        )
