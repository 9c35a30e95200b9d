"""Ways: how a model is divided over ranks, as blocks and tape need to know it; light values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Recompute = Literal["", "uniform", "block", "selective"]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Degrees of tensor, sequence, context and expert parallelism of one rank, and what its framework does with them.

    `words` is the size of the vocabulary and `multiple` what each rank's part of it is padded to (0: not at all, the
    parts may differ by one). `replicates_heads` where ranks may share a key/value head. `fused_loss` is the cross
    entropy: '' (Megatron's own, in fp32), 'native' (the same, compiled) or 'te' (in place, Transformer Engine's).
    `accumulates` where weight gradients are added to the main gradients by the product itself. `recompute` says which
    layers are recomputed, `modules` which parts of each. `fp8` is a recipe of Transformer Engine, or ''.
    `stage` of a pipeline has the table where it is the `first`, the head where it is the `last`; it holds `in_flight`
    micro batches, numerator and denominator.
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    words: int = 0
    multiple: int = 128
    replicates_heads: bool = True
    fused_loss: Literal["", "native", "te"] = ""
    accumulates: bool = True
    fuses_activation: bool = True
    fuses_permutation: bool = False
    fuses_rope: bool = True
    capacity: float = 0.0
    dispatcher: Literal["alltoall", "allgather", "flex"] = "alltoall"
    attention_over_context: Literal["p2p", "a2a", "all_gather", "a2a+p2p"] = "p2p"
    recompute: Recompute = ""
    recomputed_layers: int = 0
    modules: frozenset[str] = frozenset()
    distributes_inputs: bool = False
    fp8: str = ""
    modules_of: Literal["hf", "megatron"] = "hf"
    experts: bool = False
    router: str = ""
    pads: bool = False
    stage: int = 0
    first: bool = True
    last: bool = True
    micro_batches: int = 1
    in_flight: tuple[int, int] = (1, 1)

    @property
    def spread(self) -> int:
        """Ranks that share the sequence between the tensor-parallel parts of a layer."""
        return self.tensor if self.sequence else 1

    def vocabulary(self, rows: int) -> int:
        """Rows of a table of `rows` tokens that one rank holds."""
        if not self.multiple:
            return -(-rows // self.tensor)
        whole = self.multiple * self.tensor
        return -(-rows // whole) * self.multiple
