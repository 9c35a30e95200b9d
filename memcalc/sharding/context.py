"""Context parallelism: every rank holds the model whole and a part of the sequence (Ring attention; Ulysses)."""

from __future__ import annotations

from memcalc.errors import Fault


def local_tokens(seq: int, context: int, tensor: int, *, sequence: bool) -> tuple[int, list[Fault]]:
    """Tokens of a sequence that one context-parallel rank works on, and what does not divide.

    Causal attention is balanced by giving each rank two of 2·context parts (transformer_engine,
    context_parallel.py), and sequence parallelism cuts each rank's part again by the tensor degree.
    """
    whole = (2 * context if context > 1 else 1) * (tensor if sequence else 1)
    if seq % whole:
        by = "2 * context_parallel_size" if not sequence else "tensor_model_parallel_size * context_parallel_size"
        return max(1, seq // context), [Fault("seq_len", f"{seq} tokens are not divisible by {by} ({whole})")]
    return seq // context, []
