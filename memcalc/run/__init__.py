"""Run: the whole vocabulary of a training run, as frozen values. One definition: flags, run files and Python share it.

Only the words are here. `memcalc.run.validation` turns a mapping into a Run (pydantic checks it against these types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal

from memcalc.adapters.spec import Lora
from memcalc.bounds import Ge, Le
from memcalc.dataclass import dataclass

Count = Annotated[int, Ge(1), Le(10**9)]
Positive = Annotated[int, Ge(0), Le(10**15)]
Spec = str | Mapping[str, Any]
# losses that a trainer takes of the model's outputs, outside of its forward
OUTER = frozenset(
    {"log-probs", "log-softmax", "fused-log-probs", "kernel-log-probs", "label-smoothing", "distillation"}
)


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Which activations are recomputed in the backward pass (torch.utils.checkpoint).

    `full`: every layer keeps its input alone; `selective`: the dear operations (attention, large matmuls) are kept.
    `every` n-th layer only, counted through the whole model (an encoder's layers, then its decoder's); `offload` keeps the
    saved inputs in host memory.
    """

    mode: Literal["none", "full", "selective"] = "none"
    reentrant: bool = False
    every: Count = 1
    offload: bool = False


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How the loss is computed from the last hidden state: the logits are often the largest tensor of the step.

    Of preferences and rewards (DPO, KTO, SimPO, GRPO …) the log-probability of each token is all that is read:
    `fused-log-probs` has them without logits (TRL's trainers), `log-probs` and `log-softmax` from whole ones, row by row or
    at once; with `nll` the cross entropy of the chosen half is added (ORPO, CPO). `kernel-log-probs` are those of flash-attn's
    cross entropy, whose gradient is written over the logits (verl), or beside them: of logits in `fp32` (OpenRLHF), or where
    their `entropy` is taken as well. `label-smoothing` is the Trainer's,
    `distillation` a divergence from a teacher's logits.
    """

    kind: Literal[
        "standard", "fused", "fused-linear", "chunked", "compiled",
        "log-probs", "log-softmax", "fused-log-probs", "kernel-log-probs", "label-smoothing", "distillation",
    ] = "standard"  # fmt: skip
    chunks: Count | None = None
    nll: bool = False
    fp32: bool = False
    entropy: bool = False


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the data-parallel ranks share parameters, gradients and optimizer states; `options` in the framework's words."""

    strategy: Literal["none", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp", "hsdp", "megatron"] = "none"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Degrees of model parallelism; the data-parallel degree is what remains of `gpus`.

    `expert_tensor` is the tensor degree of experts where it differs from `tensor`; `virtual` how many chunks of the
    model each pipeline stage holds. `tp_plan` is whose tensor parallelism divides transformers' modules: torchtitan's, or
    by `auto` transformers' own, which puts the head's outputs together before the loss.
    """

    tensor: Count = 1
    pipeline: Count = 1
    context: Count = 1
    expert: Count = 1
    expert_tensor: Count | None = None
    virtual: Count = 1
    sequence: bool = False
    schedule: Literal["1f1b", "interleaved", "gpipe", "zero-bubble", "dualpipe"] = "1f1b"
    tp_plan: Literal["torchtitan", "auto"] = "torchtitan"


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A further model beside the one that is trained: DPO's reference, PPO's reward and value models, an EMA copy, encoders.

    `model` is `same` or another; `dtype` what its weights are stored in (None: as the model's own). A `trainable` one
    (PPO's value model) has gradients and optimizer states; with `lora` it is its adapters that learn. `forward` is whether
    it runs in the step (None: unless it is an exponential moving average); `quantize` how what does not learn is stored. An
    `encoder` makes what the model reads: text, or an image as an autoencoder's latents.

    A reference that is `shared` is the model itself with its adapters switched off: it runs, and has no weights of its own.
    `after` is whether it runs over what the model's forward pass has left for the backward pass (None: a reference or a
    teacher does, the others run before).
    """

    role: Literal["reference", "reward", "value", "teacher", "ema", "encoder"]
    model: Spec = "same"
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    trainable: bool = False
    lora: Lora | None = None
    quantize: Spec | None = None
    forward: bool | None = None
    shared: bool = False
    after: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What `memcalc check` holds a run to: sizes such as "76GiB"."""

    max_total: str | int | None = None
    max_peak: str | int | None = None
    components: Mapping[str, str | int] = field(default_factory=dict)
    min_headroom: str | int | None = None
    max_gpus: Count | None = None
    max_usd_per_hour: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the user asked. Bytes appear as written ("80GiB"); presets by name; resolution comes later.

    * `batch_size` is the micro batch of one GPU; `seq_len` None means 2048, capped by the model. With `packing` the
      sequences of a batch lie in one row, without padding.
    * `images` is how many each sequence holds (0: text alone), or a denoiser is shown to change; `image_size` their height
      and width in pixels, `frames` how many of them make up a video; None is what the model's own config says.
    * `train` and `freeze` are patterns of tensor names: only what `train` matches learns, where it names any, and nothing
      that `freeze` matches.
    * `companions` are further models on the GPU.
    * `expandable_segments`: PyTorch's allocator grows its segments, as PYTORCH_ALLOC_CONF can tell it to.
    """

    model: Spec
    precision: Spec = "mixed-bf16"
    optimizer: Spec = "adamw"
    batch_size: Count = 1
    seq_len: Count | None = None
    target_len: Count | None = None
    images: Positive | None = None
    image_size: tuple[Count, Count] | None = None
    frames: Count | None = None
    packing: bool = False
    grad_accum: Count = 1
    checkpointing: Checkpointing = Checkpointing()
    attention: Literal["eager", "sdpa", "flash"] = "sdpa"
    loss: Loss = Loss()
    keep_outputs: bool = False
    implementation: Literal[
        "hf", "hf-liger", "megatron", "torchtune", "torchtune-compiled", "torchtitan", "torchtitan-compiled", "unsloth"
    ] = "hf"
    lora: Lora | None = None
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    quantize: Spec | None = None
    companions: tuple[Companion, ...] = ()
    gpu: str | None = None
    gpus: Count = 1
    sharding: Sharding | None = None
    parallel: Parallel = Parallel()
    offload: Literal["none", "optimizer", "optimizer+params", "activations"] = "none"
    expandable_segments: bool = False
    margin: str | Positive = 0
    budget: Budget | None = None


def keys() -> list[str]:
    """The keys of a run file, in the order they are documented."""
    return [f.name for f in fields(Run)]
