"""GPT-NeoX's yml: DeepSpeed's keys and the model's side by side, with dashes or underscores.

Sources are EleutherAI/gpt-neox: megatron/neox_arguments/neox_args.py and arguments.py, megatron/model/transformer.py. Its traps:

* precision follows from the fp16 and bf16 sections where no word says it: without either it is fp32;
* LayerNorm, learned positions, biases, a tied head and no dropout are the defaults; attention is `global` (its scores are
  kept) unless attention_config says flash;
* a gated width is two thirds of the one that is written, rounded up to mlp_multiple_of;
* the vocabulary is padded to a multiple of 128 times model_parallel_size: 50257 tokens are 50304 rows;
* DeepSpeed's pipeline engine runs it; Hugging Face's modules, divided, stand for NeoX's own.

A run is often given several files (a model, a cluster's settings): one is read at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from memcalc.configs import deepspeed
from memcalc.configs.gpt_neox_models import attention_kinds, put_model
from memcalc.configs.megatron_words import Words, gpus
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Sheet
from memcalc.configs.words import text
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "gpt-neox"
TITLE: Final = "GPT-NeoX"

SOURCE: Final = "megatron/neox_arguments/neox_args.py"
_SIGNS: Final = ("pipe_parallel_size", "model_parallel_size", "pos_emb", "no_weight_tying", "gpt_j_residual", "attention_config",
                 "output_layer_parallelism", "checkpoint_activations", "rotary_pct",
                 "scaled_upper_triang_masked_softmax_fusion")  # fmt: skip
# megatron/training.py, get_optimizer
_OPTIMIZERS: Final = {"adam": "apex-fused-adam", "adamw": "adamw", "onebitadam": "deepspeed-onebit-adam",
                      "cpu_adam": "deepspeed-cpu-adam", "cpu_torch_adam": "adamw", "sm3": "sm3", "madgrad_wd": "madgrad",
                      "lion": "lion", "sgd": "sgd"}  # fmt: skip
_PRECISIONS: Final = {"fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "fp32": ""}
_UNMODELLED: Final = {
    "moe_expert_parallel_size": "experts are counted on every rank, not shared out",
    "num_unique_layers": "layers that share their weights are counted each",
    "soft_prompt_tuning.enabled": "only a soft prompt learns: counted is a training of the whole model",
    "memory_efficient": "what it saves is not counted",
    "context_parallel_size": "context parallelism is not counted",
    "use_qk_layernorm": "norms of queries and keys are not counted",
    "train_impl": "DPO's and KTO's reference models are not counted (give companions)",
}  # fmt: skip
_MATTER: Final = (
    "num_*",
    "*hidden_size",
    "*parallel_size",
    "moe_*",
    "expert*",
    "mamba_*_size",
    "*dim*",
    "mup*",
    "te_*",
    "*mlp*",
    "lora*",
)
_HARMLESS: Final = (
    "num_workers",
    "mamba_*",
    "te_*",
    "use_bias*",
    "mup*",
    "num_samples*",
    "num_nodes",
    "num_gpus",
    "mlp_multiple_of",
)


def recognises(document: Document) -> int:
    """By NeoX's own keys."""
    keys = {str(key).replace("-", "_") for key in document.data}
    found = sum(sign in keys for sign in _SIGNS)
    own = {"pipe_parallel_size", "model_parallel_size"} & keys
    return 94 if found >= 3 and own else 70 if found >= 2 and "num_layers" in keys else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file."""
    sheet = Sheet(_plain(document), asked, NAME, TITLE)
    words = Words(sheet, {}, SOURCE)
    degrees = _degrees(words)
    count = gpus(words, degrees, experts=False, written=_launched(words), keys=("num_gpus", "num_nodes"))
    half = _half(words)
    put_model(words)
    if words.has("seq_length"):
        words.put("seq_len", words.number("seq_length"), "seq_length")
    deepspeed.engine(sheet)
    _attention(words, half)
    _batch(words, count, degrees)
    _checkpointing(words)
    _optimizer(words)
    sheet.unmodelled(_UNMODELLED)
    sheet.assume(
        "implementation", "modules", "Hugging Face's modules, divided, stand for NeoX's, which keep about the same"
    )
    return sheet.reading(_ignored(sheet))


def _plain(document: Document) -> Document:
    """The document with underscores for dashes in its own keys, and the precision that a word names as DeepSpeed has it."""
    data = {str(key).replace("-", "_"): value for key, value in document.data.items()}
    places = {_underscored(path): line for path, line in document.lines.items()}
    half = _PRECISIONS.get(str(data.get("precision", "")), None)
    for name in ("fp16", "bf16") if half is not None else ():
        held = data.get(name) if isinstance(data.get(name), dict) else {}
        data[name] = {**(held or {}), "enabled": half == name}
    places.update({f"{half}.enabled": places["precision"]} if half and "precision" in places else {})
    return replace(document, data=data, _parsed=Tree(data, places, dict(document.written)))


def _underscored(path: str) -> str:
    head, dot, rest = path.partition(".")
    return head.replace("-", "_") + dot + rest


def _degrees(words: Words) -> dict[str, int]:
    """Tensor and pipeline degree; a pipeline of 0 stages is none."""
    degrees = {"tensor": max(1, words.number("model_parallel_size", default=1)), "context": 1, "expert": 1, "expert_tensor": 1,
               "pipeline": max(1, words.number("pipe_parallel_size"))}  # fmt: skip
    for ours, theirs in (("tensor", "model_parallel_size"), ("pipeline", "pipe_parallel_size")):
        if degrees[ours] > 1:
            words.put(f"parallel.{ours}", degrees[ours], theirs)
    if words.flag("sequence_parallel") and degrees["tensor"] > 1:
        words.put("parallel.sequence", True, "sequence_parallel")
    return degrees


def _launched(words: Words) -> int | None:
    each, nodes = words.number("num_gpus"), max(1, words.number("num_nodes", default=1))
    return each * nodes if each > 0 else None


def _half(words: Words) -> str:
    """fp16, bf16 or '': DeepSpeed's sections, which the word `precision` has been written into."""
    word = words.read(text, "precision", default="")
    if word and word not in _PRECISIONS:
        words.sheet.fault("precision", f"{word!r} is none of {', '.join(_PRECISIONS)}")
    return next((name for name in ("fp16", "bf16") if deepspeed.enabled(words.sheet, name, auto=False)), "")


def _attention(words: Words, half: str) -> None:
    """flash-attn, or scores that are kept; flash-attn needs 16 bits."""
    kinds = attention_kinds(words)
    if "mamba" in kinds:
        return
    flash = "flash" in kinds
    words.put(
        "attention",
        ("flash" if half else "sdpa") if flash else "eager",
        "attention_config",
        default=f"{SOURCE}: global",
    )
    if flash and not half:
        words.sheet.warn("attention_config", "needs-16-bits", "flash-attn takes fp16 and bf16 only; the file names no "
                         "precision (one given beside it may): fp32 is counted, without scores")  # fmt: skip
    sparse = sorted(kind for kind in kinds if kind.startswith(("sparse", "big", "local")))
    if sparse:
        words.sheet.warn("attention_config", "not-modelled", f"{', '.join(sparse)} attention is counted as dense")


def _batch(words: Words, count: int, degrees: dict[str, int]) -> None:
    """Any two of the three batch sizes give the third (arguments.py, calculate_batch_parameters)."""
    ranks = max(1, count // (degrees["tensor"] * degrees["pipeline"]))
    micro, steps, total = (max(0, words.number(key)) for key in _BATCHES)
    if not micro and total:
        micro = max(1, total // (ranks * max(1, steps)))
    if not micro:
        words.sheet.assume("batch_size", "micro-batch-not-in-config", "the file holds no train_micro_batch_size_per_gpu (one of "
                           "several given together?): 1 is assumed; say it with --batch-size")  # fmt: skip
    words.put("batch_size", micro or 1, *_BATCHES[::2])
    words.put("grad_accum", steps or max(1, total // (ranks * (micro or 1))), *_BATCHES[1:], default=f"{SOURCE}: 1")


_BATCHES: Final = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")


def _checkpointing(words: Words) -> None:
    """DeepSpeed's, of chunks of checkpoint_num_layers layers."""
    on = words.flag("checkpoint_activations")
    words.put("checkpointing", "full" if on else "none", "checkpoint_activations", default=f"{SOURCE}: false")
    chunk, parts = words.number("checkpoint_num_layers", default=1), words.flag("partition_activations")
    if on and chunk > 1:
        words.sheet.warn(
            "checkpoint_num_layers", "not-modelled", f"chunks of {chunk} layers are counted layer by layer"
        )
    if on and parts and words.number("model_parallel_size", default=1) > 1:
        words.sheet.warn("partition_activations", "not-modelled", "saved activations that are divided among tensor-parallel "
                         "ranks are counted whole")  # fmt: skip


def _optimizer(words: Words) -> None:
    """NeoX's own choice, whatever DeepSpeed would make: apex's Adam, bitsandbytes' where it is asked for."""
    keys = ("optimizer.type", "optimizer_type")
    name = words.read(text, *keys, default="adam").lower()
    offloaded = "offload_optimizer" in words.sheet.run.get("sharding", {})
    ours = _OPTIMIZERS.get(name, name)
    if words.flag("use_bnb_optimizer") and name in ("adam", "adamw"):
        ours = "adamw-8bit"
    elif offloaded and name in ("adam", "adamw"):
        ours = "deepspeed-cpu-adam"
    words.sheet.run.pop("optimizer", None)
    put_optimizer(words.sheet, ours, {}, *keys, default="" if words.has(*keys) else f"{SOURCE}: adam")


def _ignored(sheet: Sheet) -> list[str]:
    """Everything but what speaks of the model's sizes and the ways that it is divided."""
    from fnmatch import fnmatch  # noqa: PLC0415 - at the end of a reading

    def matters(key: str) -> bool:
        return any(fnmatch(key, one) for one in _MATTER) and not any(fnmatch(key, one) for one in _HARMLESS)

    return [
        *deepspeed.IGNORED,
        *(key for key in sheet.document.data if not matters(key) and key != "zero_optimization"),
    ]
