"""Flat parameters of FSDP1 (torch 2.13.0, torch/distributed/fsdp/_flat_param.py, FlatParamHandle)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.values import ITEM, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.sharding.fsdp1 import Flattened
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor


class Handle:
    """A flat parameter: how many elements, cut into what, kept and seen in which dtypes; what is there of it just now."""

    def __init__(self, elements: int, shard: int, kept: str, seen: str, *, trainable: bool) -> None:
        self.elements, self.shard, self.kept, self.seen, self.trainable = elements, shard, kept, seen, trainable
        self.full: Value | None = None
        self.accumulated: Value | None = None
        self.saved: Value | None = None


def made(how: Flattened, tensors: tuple[Tensor, ...], tape: Tape) -> list[Handle]:
    """The flat parameters of a unit of these tensors."""
    found = []
    for flat in how.handles(tensors):
        kept = tape.weights.kept(flat)
        seen = kept if tape.setting.autocast and not how.param_dtype else tape.weights.seen(flat)
        shard = -(-flat.elements // how.shards)
        found.append(Handle(flat.elements, shard, kept, seen, trainable=flat.trainable))
    return found


def tried(handles: Iterable[Handle], ways: int) -> Iterator[int]:
    """init_flat_param_attributes: bytes of buffers that are made once, and their storages given back until they are needed.

    `ways` is how many ranks share what is gathered; 0 where nothing is.
    """
    for handle in handles:
        whole, narrow = handle.shard * ways, handle.kept != handle.seen
        if narrow:
            yield rounded(handle.shard * ITEM[handle.seen])
        if ways:
            yield rounded(whole * ITEM[handle.seen])
        if ways and narrow:
            yield rounded(whole * ITEM[handle.kept])
