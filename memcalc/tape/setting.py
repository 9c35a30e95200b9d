"""Setting: everything that decides what one training step allocates, besides the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from memcalc.dataclass import dataclass
from memcalc.packing import UNPACKED, Packing

if TYPE_CHECKING:
    from memcalc.ways import Ways


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One micro step of one GPU.

    What it is given:

    * `batch` sequences of `seq` tokens (0: an image model, which says its own size), `target` for the decoder of an
      encoder-decoder; or one row of `packed` sequences (0: not packed).
    * In every sequence, `images` of `image_size` pixels (height and width; (): as the model says), or videos of so many
      `frames`.

    Dtypes ('' where it says nothing of its own):

    * `weights` and `gradients` are those parameters are kept in and autograd sees, `frozen` that of parameters that do
      not learn, `inputs` that of pixels or sound ('': the weights').
    * `master` and `states` are what the optimizer keeps beside them ('': no copy; the parameter's own).
    * `autocast` is the lower one under torch.autocast.

    What is kept:

    * `checkpoint` recomputes every `every`-th layer, in torch's older way where `reentrant`; `selective` keeps the outputs
      of dear operations, `offload_inputs` the layers' inputs in host memory, `offload_activations` all that autograd saves,
      as often as it is saved ('each': torchtune's), or but once while it is on its way ('once': TRL's).
    * `keep_outputs` where the training loop holds on to the model's outputs until after the backward pass.
    * `keeps_inputs` where linear layers save their input even if their weight does not learn (DeepSpeed's
      zero3_linear_wrap).
    * `accumulating` where an earlier micro batch has left gradients.
    * `spends` where the optimizer uses a gradient up in the backward pass: as soon as it is there, or when the next is;
      in a `starting` step it makes its states then.

    Kernels:

    * `fused` names the parts that fused kernels take over from the model's own modules: norm, rope, mlp.
    * Where the `loss` is of log-probabilities, the cross entropy of the `chosen_too` sequences may be added, the logits be in
      fp32 (`loss_fp32`), or their entropy be taken (`loss_entropy`).
    * `chunks` are those of the `loss`, `chunk_size` how many times the hidden states' elements one may have.
    * Products with quantised weights are computed in `compute`, as their `packing` says.
    * `evaluating` where nothing is dropped out.

    And around them:

    * `ways` says how the model is divided over ranks (None: it is not); `seq` and the model are then one rank's.
    * `expandable_segments` where the allocator grows its segments; `streams` where those of a GPU each have a pool.
    """

    batch: int = 1
    seq: int = 2048
    target: int = 0
    packed: int = 0
    images: int = 1
    image_size: tuple[int, ...] = ()
    frames: int = 1
    weights: str = "bf16"
    inputs: str = ""
    frozen: str = "bf16"
    master: str = ""
    gradients: str = ""
    states: str = ""
    autocast: str = ""
    attention: Literal["eager", "sdpa", "flash"] = "sdpa"
    checkpoint: bool = False
    reentrant: bool = False
    every: int = 1
    selective: bool = False
    offload_inputs: bool = False
    offload_activations: Literal["", "each", "once"] = ""
    loss: Literal[
        "standard", "fused", "fused-linear", "chunked", "compiled",
        "log-probs", "log-softmax", "fused-log-probs", "kernel-log-probs", "label-smoothing", "distillation",
    ] = "standard"  # fmt: skip
    chosen_too: bool = False
    loss_fp32: bool = False
    loss_entropy: bool = False
    chunks: int = 0
    chunk_size: int = 1
    keep_outputs: bool = False
    expandable_segments: bool = False
    streams: bool = False
    evaluating: bool = False
    accumulating: bool = False
    lora_dropout: float = 0.0
    adapter: str = ""
    adapter_options: tuple[tuple[str, object], ...] = ()
    fused: frozenset[str] = frozenset()
    compute: str = ""
    spends: Literal["", "at once", "late"] = ""
    starting: bool = False
    packing: Packing = UNPACKED
    keeps_inputs: bool = False
    ways: Ways | None = None
