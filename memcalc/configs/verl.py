"""verl's Hydra configs: `main_ppo` (PPO, GRPO and their kin) and the SFT trainer; YAML, or overrides in a launch script.

Sources are verl's trainer/config (_generated_ppo_trainer.yaml, sft_trainer.yaml) and workers/fsdp_workers.py. Its traps:

* FSDP holds fp32 weights, gathered in bf16: 16 bytes a parameter, shared out, whatever the rollout computes in;
* activation checkpointing is on; a critic is trained beside the actor for `gae` alone; a reference model is there for KL;
* vLLM's share of the GPU is let go of while the actor learns, unless free_cache_engine is off.

The step that is counted is the actor's: the longest prompt and the longest answer, in micro batches.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import interpolated
from memcalc.configs.lora import targets
from memcalc.configs.megatron_script import filled, taken
from memcalc.configs.names import model
from memcalc.configs.table import Sheet
from memcalc.configs.verl_engines import bridged, fsdp, megatron, optimizer
from memcalc.configs.words import number, text, truth, whole
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "verl"
TITLE: Final = "verl"
TEXT: Final = True  # it reads scripts too

SOURCE: Final = "verl/trainer/config/_generated_ppo_trainer.yaml"
_OVERRIDE: Final = re.compile(r"\+{0,2}([a-z_]\w{0,60}(?:\.\w{1,60}){1,8})=([^\s\\]{0,300})")
_ACTOR: Final = "actor_rollout_ref"
_UNMODELLED: Final = {
    f"{_ACTOR}.actor.ulysses_sequence_parallel_size": "",
    "model.enable_activation_offload": "activations that are moved to the host are counted on the GPU",
    f"{_ACTOR}.model.enable_activation_offload": "activations that are moved to the host are counted on the GPU",
    "reward_model.enable": "a reward model is not counted (give companions)",
    "reward.reward_model.enable": "a reward model is not counted (give companions)",
    "distillation.enabled": "the teachers' log-probabilities are not counted; teachers are on GPUs of their own",
    f"{_ACTOR}.actor.freeze_vision_tower": "a vision tower that is frozen is counted as learning: freeze it with --freeze",
    f"{_ACTOR}.actor.entropy_from_logits_with_chunking": "the entropy is counted of all logits at once, which is more than is used",
    f"{_ACTOR}.actor.entropy_checkpointing": "the entropy is counted without checkpoints, which is more than is used",
    f"{_ACTOR}.actor.calculate_sum_pi_squared": "the softmax of the logits that its sum of squares takes is not counted",
    f"{_ACTOR}.actor.use_prefix_grouper": "prompts that answers share are counted once for each, which is more than is used",
    f"{_ACTOR}.actor.qat.enable": "weights that are rounded as if quantised are not counted",
    **{f"{at}.{key}": what for at in ("model", f"{_ACTOR}.model") for key, what in {
        "tiled_mlp.enabled": "feed-forward layers that run in tiles are counted whole, which is more than is used",
        "mtp.enable_train": "the layers of multi-token prediction are not counted",
    }.items()},
}  # fmt: skip

_OF_THE_ACTOR: Final = (
    "hybrid_engine", "rollout*", "ref*", "nccl*", "actor.optim*", "actor.clip*", "actor.entropy*", "actor.kl_*",
    "actor.loss*", "actor.grad_clip", "actor.ppo_epochs", "actor.shuffle", "actor.policy_loss*",
    "actor.checkpoint*", "actor.profiler*", "actor.use_torch_compile", "actor._target_", "actor.fsdp_config*",
    "actor.rollout_n", "actor.use_fused_kernels", "actor.qat.*", "actor.pad_to_length*", "actor.use_remove_padding",
    "model.target_modules", "model.fused_kernel_options", "model.tiled_mlp.*", "model.mtp.*", "actor.torchtitan", "actor.veomni",
    "actor.data_loader_seed", "actor.tau*", "actor.ppo_max_*", "actor.calculate*", "model.use_remove_padding",
    "model.custom*", "model.external_lib", "model.tokenizer*", "model.use_shm", "model.trust_remote_code",
    "model.lora_alpha", "model.override_config*", "model.hf_config_path", "model._target_", "model.exclude_modules",
)  # fmt: skip
_IGNORED: Final = (
    *(f"{_ACTOR}.{key}" for key in _OF_THE_ACTOR),
    "data*", "trainer*", "algorithm*", "reward*", "custom_reward*", "critic*", "ray*", "hydra*", "defaults",
    "optim*", "transfer_queue*", "global_profiler*", "env*", "model.lora_alpha", "model.trust_remote_code",
    "model.external_lib", "model.override_config*", "model.fsdp_config*", "model.use_shm",
    "ulysses_sequence_parallel_size", "use_remove_padding", "model.strategy", "model.custom*", "engine*", "checkpoint*",
    "profiler*",     "model.tokenizer*", "model.hf_config_path", "model._target_", "model.exclude_modules", "model.lora*",
       "model.use_remove_padding", "model.use_fused*", "model.fused*", "model_engine", "model.mtp*", "model.tiled*", "model.input*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By the actor, the rollout and the reference in one; or by the SFT trainer's words."""
    if document.data:
        inner = document.data.get("model")
        sft = isinstance(inner, dict) and (
            "partial_pretrain" in inner or ("path" in inner and "engine" in document.data)
        )
        return 92 if isinstance(document.data.get(_ACTOR), dict) else 90 if sft else 0
    head = document.text[:100_000]
    return 91 if f"{_ACTOR}." in head or "verl.trainer." in head else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of the actor, or of the model that SFT trains."""
    known = _overrides(document) if not document.data else interpolated(document)
    sheet = Sheet(known, asked, NAME, TITLE)
    tuned = sheet.has("model.partial_pretrain", "model.path")
    model(sheet, *(("model.partial_pretrain", "model.path") if tuned else (f"{_ACTOR}.model.path",)))
    count = _gpus(sheet)
    _adapters(sheet, "model" if tuned else f"{_ACTOR}.model")
    _engine(sheet, count, tuned)
    divided = sheet.run.get("implementation") == "megatron"
    optimizer(sheet, "optim" if tuned else f"{_ACTOR}.actor.optim", megatron=divided)
    _sft(sheet, count) if tuned else _ppo(sheet, count)
    sheet.unmodelled({key: what for key, what in _UNMODELLED.items() if what})
    return sheet.reading(_IGNORED)


def _overrides(document: Document) -> Document:
    """The overrides of a script (`actor_rollout_ref.model.path=Qwen/…`) as data; the last of a key counts."""
    variables, lines = taken(document.text.splitlines()[:20_000])
    data: dict[str, Any] = {}
    places: dict[str, int] = {}
    for number_, line in enumerate(lines, 1):
        for key, value in _OVERRIDE.findall(re.split(r"(?:^|\s)#", line[:2000], maxsplit=1)[0]):
            data[key] = filled(value.strip("\"'"), variables)
            places[key] = number_
    return replace(document, data=data, unreadable=None, _parsed=Tree(data, places, {}))


def _gpus(sheet: Sheet) -> int:
    each = sheet.read(whole, "trainer.n_gpus_per_node", default=0)
    nodes = max(1, sheet.read(whole, "trainer.nnodes", default=1))
    return sheet.gpus("trainer.n_gpus_per_node", "trainer.nnodes", count=each * nodes if each > 0 else None)


def _adapters(sheet: Sheet, at: str) -> None:
    if (rank := sheet.read(whole, f"{at}.lora.rank", default=0)) > 0 and not sheet.has(f"{at}.lora_rank"):
        bridged(sheet, f"{at}.lora", rank)
        return
    rank = sheet.read(whole, f"{at}.lora_rank", default=0)
    if rank > 0:
        sheet.put("lora.rank", rank, f"{at}.lora_rank")
        sheet.put("lora.alpha", sheet.read(number, f"{at}.lora_alpha", default=16), f"{at}.lora_alpha", default=SOURCE)
        chosen = sheet.read(targets, f"{at}.target_modules", default="all-linear")
        sheet.put("lora.targets", chosen, f"{at}.target_modules", default=SOURCE)


def _engine(sheet: Sheet, count: int, tuned: bool) -> None:
    """The actor's engine, or that of the SFT trainer of either kind; activation checkpointing is the model's, or the engine's."""
    at = "model" if tuned else f"{_ACTOR}.model"
    key = (
        "engine.strategy" if sheet.has("engine") or (tuned and sheet.has("model.path")) else f"{_ACTOR}.actor.strategy"
    )
    words = (key, f"{_ACTOR}.actor.strategy", "model.strategy", "model_engine")
    strategy = sheet.read(text, *words, default="").lower() or _strategy(sheet)
    sheet.seen(f"{at}.enable_gradient_checkpointing")
    if strategy == "megatron":
        megatron(sheet, "engine" if tuned else f"{_ACTOR}.actor.megatron", *words)
        return
    old = "model.fsdp_config" if sheet.has("model.partial_pretrain") else "engine"
    fsdp(sheet, count, old if tuned else f"{_ACTOR}.actor.fsdp_config", strategy, *words)
    on = sheet.read(truth, f"{at}.enable_gradient_checkpointing", default=True)
    sheet.put("checkpointing", "full" if on else "none", f"{at}.enable_gradient_checkpointing", default=SOURCE)
    sheet.put("attention", "flash", default="verl/workers/fsdp_workers.py")
    if strategy not in ("", "fsdp", "fsdp2"):
        sheet.warn(sheet.named(*words), "not-modelled", f"the engine {strategy} is counted as FSDP")


def _strategy(sheet: Sheet) -> str:
    """megatron, where a script starts verl with that config (`--config-name=ppo_megatron_trainer`) or has its degrees."""
    named = re.search(r"--config-name[= ]['\"]?\w*megatron", sheet.document.text[:100_000])
    degrees = any(
        f"actor.megatron.{key}" in sheet.document.text[:100_000] for key in ("tensor", "pipeline", "expert", "context")
    )
    return "megatron" if named or degrees else ""


def _ppo(sheet: Sheet, count: int) -> None:
    """The actor's update: micro batches of prompt and answer; the models that are held beside it."""
    at = f"{_ACTOR}.actor"
    keys = (f"{at}.ppo_micro_batch_size_per_gpu", f"{at}.ppo_micro_batch_size")
    length = sum(sheet.read(whole, f"data.max_{part}_length", default=512) for part in ("prompt", "response"))
    sheet.put("seq_len", length, "data.max_prompt_length", "data.max_response_length", default=SOURCE)
    divided = max(1, sheet.read(whole, f"{at}.ulysses_sequence_parallel_size", default=1))
    if divided > 1:
        sheet.put("parallel.context", divided, f"{at}.ulysses_sequence_parallel_size")
    if sheet.read(truth, f"{at}.use_dynamic_bsz", default=False):
        tokens = sheet.read(whole, f"{at}.ppo_max_token_len_per_gpu", default=16384)
        sheet.put("batch_size", max(1, tokens * divided // length), f"{at}.ppo_max_token_len_per_gpu", default=SOURCE)
        sheet.put("packing", True, f"{at}.use_dynamic_bsz")
    else:
        each = sheet.read(whole, keys[0], default=0) or sheet.read(whole, keys[1], default=0) // count
        sheet.put("batch_size", max(1, each), *keys)
    total = sheet.read(whole, f"{at}.ppo_mini_batch_size", default=256) * max(
        1, sheet.read(whole, f"{_ACTOR}.rollout.n", default=1)
    )
    sheet.put("grad_accum", max(1, total * divided // count // sheet.run["batch_size"]), f"{at}.ppo_mini_batch_size", *keys,
              default=SOURCE)  # fmt: skip
    _beside(sheet)
    _loss(sheet, at)
    _liger(sheet, f"{_ACTOR}.model")
    share = sheet.read(number, f"{_ACTOR}.rollout.gpu_memory_utilization", default=0.5)
    if not sheet.read(truth, f"{_ACTOR}.rollout.free_cache_engine", default=True):
        sheet.put("margin", f"{share:.0%}", f"{_ACTOR}.rollout.gpu_memory_utilization")


def _loss(sheet: Sheet, at: str) -> None:
    """flash-attn's cross entropy, with the entropy where its coefficient is not 0; or the head in a kernel (dp_actor.py)."""
    if sheet.read(truth, f"{_ACTOR}.model.use_fused_kernels", default=False):
        sheet.put("loss", "fused-log-probs", f"{_ACTOR}.model.use_fused_kernels")
        sheet.assume(
            "loss", "fused-kernels", "verl's fused head is counted as TRL's: log-probabilities by tiles of logits"
        )
        return
    weight = sheet.read(number, f"{at}.entropy_coeff", default=0.0)
    entropy = bool(weight) or sheet.read(truth, f"{at}.calculate_entropy", default=False)
    sheet.put("loss", {"kind": "kernel-log-probs", "entropy": True} if entropy else "kernel-log-probs", f"{at}.entropy_coeff",
              default="verl/workers/actor/dp_actor.py")  # fmt: skip


def _beside(sheet: Sheet) -> None:
    """The reference model under KL (without adapters); the critic of gae, with its states, of its own path."""
    held: list[dict[str, Any]] = []
    keys = f"{_ACTOR}.actor.use_kl_loss", "algorithm.use_kl_in_reward"
    kl = any([sheet.read(truth, key, default=False) for key in keys])  # noqa: C419 - each is looked at
    if kl and "lora" not in sheet.run:
        held.append({"role": "reference", "dtype": "bf16", "after": False})
    if sheet.read(text, "algorithm.adv_estimator", default="gae") == "gae":
        sheet.assume(
            "companions", "critic", "the critic of gae learns in a step of its own: what it holds is beside the actor's"
        )
        held.append({"role": "value", "trainable": True, "forward": False})
    if held:
        sheet.put("companions", held, "algorithm.adv_estimator", f"{_ACTOR}.actor.use_kl_loss", default=SOURCE)


def _sft(sheet: Sheet, count: int) -> None:
    """Micro batches of the SFT trainer (sft_trainer.yaml)."""
    micro = max(1, sheet.read(whole, "data.micro_batch_size_per_gpu", "data.micro_batch_size", default=4))
    total = sheet.read(whole, "data.train_batch_size", default=256)
    sheet.put(
        "seq_len", sheet.read(whole, "data.max_length", default=1024), "data.max_length", default="sft_trainer.yaml"
    )
    divided = max(
        1, sheet.read(whole, "engine.ulysses_sequence_parallel_size", "ulysses_sequence_parallel_size", default=1)
    )
    if divided > 1:
        sheet.put(
            "parallel.context", divided, "engine.ulysses_sequence_parallel_size", "ulysses_sequence_parallel_size"
        )
    engined = not sheet.has("model.partial_pretrain")
    if sheet.read(truth, "data.use_dynamic_bsz", default=engined):
        tokens = sheet.read(whole, "data.max_token_len_per_gpu", default=8192)
        micro = max(1, tokens * divided // sheet.run["seq_len"])
        sheet.put("packing", True, "data.use_dynamic_bsz", default="sft_trainer_engine.yaml")
    sheet.put("batch_size", micro, "data.micro_batch_size_per_gpu", "data.micro_batch_size", default="sft_trainer.yaml")
    sheet.put("grad_accum", max(1, total * divided // count // micro), "data.train_batch_size", "data.micro_batch_size_per_gpu",
              default="sft_trainer.yaml")  # fmt: skip
    _liger(sheet, "model")


def _liger(sheet: Sheet, at: str) -> None:
    """Liger's layers without its head (transformer_impl.py: fused_linear_cross_entropy=False)."""
    if sheet.read(truth, f"{at}.use_liger", default=False) and "implementation" not in sheet.run:
        sheet.put("implementation", "hf-liger", f"{at}.use_liger")
