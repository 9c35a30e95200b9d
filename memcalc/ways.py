"""Ways: how a model is divided over ranks, as blocks and tape need to know it; light values, no I/O."""

from __future__ import annotations

from typing import Literal

from memcalc.dataclass import dataclass

Recompute = Literal["", "uniform", "block", "selective"]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Degrees of tensor, sequence, context and expert parallelism of one rank, and what its framework does with them.

    * `words` is the size of the vocabulary, of which each rank's part is padded to a `multiple` (0: not at all, the parts
      may differ by one), `width` that of the hidden states.
    * `tied` where the head has the table's weights; `distributes` where parameters are DTensors.
    * `replicates_heads` where ranks may share a key/value head.
    * `whole_logits` where the parts of the head's outputs are put together before the loss.
    * `plan` says how attention and MLPs are divided, where it is not by heads and inner widths (Model.tp_plan).
    * `overlapped` where parts of the sequence are sent one by one beside the products (async tensor parallelism).

    Megatron-LM's choices:

    * `fused_loss` is the cross entropy: '' (its own, in fp32), 'native' (the same, compiled) or 'te' (in place,
      Transformer Engine's).
    * `accumulates` where the product itself adds weight gradients to the main ones.
    * `fuses_activation` and `fuses_permutation` name kernels of their own.
    * `recompute` says which layers run again, `modules` which parts of each.
    * `fp8` is a recipe of Transformer Engine, or ''.
    * `experts` where the model has some: `capacity` is what a rank's may take of a balanced load (0: all), to which rows
      are padded where it `pads`; `router` is the dtype of its logits, or ''.

    A pipeline's:

    * A `stage` has the table where it is the `first`, the head where it is the `last`, and `chunks` of layers.
    * Of `micro_batches` it holds `in_flight`: numerator and denominator.
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    words: int = 0
    width: int = 0
    tied: bool = False
    distributes: bool = False
    multiple: int = 128
    replicates_heads: bool = True
    whole_logits: bool = False
    plan: tuple[tuple[str, str], ...] = ()
    overlapped: bool = False
    fused_loss: Literal["", "native", "te"] = ""
    accumulates: bool = True
    fuses_activation: bool = True
    fuses_permutation: bool = False
    capacity: float = 0.0
    attention_over_context: Literal["p2p", "a2a", "allgather", "a2a+p2p"] = "p2p"
    recompute: Recompute = ""
    recomputed_layers: int = 0
    modules: frozenset[str] = frozenset()
    fp8: str = ""
    modules_of: Literal["hf", "megatron"] = "hf"
    experts: bool = False
    router: str = ""
    pads: bool = False
    stage: int = 0
    first: bool = True
    last: bool = True
    micro_batches: int = 1
    chunks: int = 1
    in_flight: tuple[int, int] = (1, 1)

    @property
    def spread(self) -> int:
        """Ranks that share the sequence between the tensor-parallel parts of a layer."""
        return self.tensor if self.sequence else 1

    def gradient_rows(self, rows: int) -> int:
        """Rows of the gradient of a rank's part of the table: DTensor's are those of all ranks, to be summed.

        embedding_dense_backward_strategy (torch 2.13.0, torch/distributed/tensor/_ops/_embedding_ops.py) has none by rows.
        """
        divided = self.distributes and rows < self.words and rows == self.vocabulary(self.words)
        return self.words if divided else rows

    def left_rows(self, rows: int) -> int:
        """Rows of what a backward pass leaves of it: where the head's gradient is added, they have been summed."""
        return rows if self.tied else self.gradient_rows(rows)

    def vocabulary(self, rows: int) -> int:
        """Rows of a table of `rows` tokens that one rank holds."""
        if not self.multiple:
            return -(-rows // self.tensor)
        whole = self.multiple * self.tensor
        return -(-rows // whole) * self.multiple
