"""Count storages from birth to death while torch runs on fake tensors: needs torch."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from memcalc.allocator import Block, CachingAllocator
from memcalc.tape.values import rounded


class LiveBytes(TorchDispatchMode):
    """Live bytes by kind, the highest of each phase since `restart`, and what the caching allocator would reserve."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = WeakIdKeyDictionary()
        self.allocator = CachingAllocator()
        self.live: Counter[str] = Counter()
        self.phase, self.phases = "setup", Counter[str]()

    @property
    def total(self) -> int:
        """Bytes alive now."""
        return self.live.total()

    def restart(self) -> None:
        """A new step: forget the phases of the one before."""
        self.phases.clear()
        self.enter("forward")

    def enter(self, phase: str) -> None:
        """From here on in another phase."""
        self.phase = phase
        self._note()

    def add(self, tensor: torch.Tensor, kind: str = "temporary") -> None:
        """Count a tensor's storage, or give one that is counted already another kind."""
        storage = tensor.untyped_storage()
        entry = self.seen.get(storage)
        if entry is None:
            size = rounded(storage.nbytes())
            entry = self.seen[storage] = [kind, size, self.allocator.malloc(size)]
            weakref.finalize(storage, self._bury, entry).atexit = False
            self.live[kind] += size
            self._note()
        elif kind not in {"temporary", entry[0]}:
            self.live[entry[0]] -= entry[1]
            self.live[kind] += entry[1]
            entry[0] = kind

    def _bury(self, entry: tuple[str, int, Block]) -> None:
        kind, size, block = entry
        self.live[kind] -= size
        self.allocator.free(block)

    def _note(self) -> None:
        self.phases[self.phase] = max(self.phases[self.phase], self.total)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out
