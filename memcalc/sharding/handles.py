"""Flat parameters of FSDP1 (torch 2.13.0, torch/distributed/fsdp/_flat_param.py, FlatParamHandle)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.tape.values import Value


class Handle:
    """A flat parameter: how many elements, cut into what, kept and seen in which dtypes; what is there of it just now."""

    def __init__(self, elements: int, shard: int, kept: str, seen: str, *, trainable: bool) -> None:
        self.elements, self.shard, self.kept, self.seen, self.trainable = elements, shard, kept, seen, trainable
        self.full: Value | None = None
        self.accumulated: Value | None = None
        self.saved: Value | None = None
