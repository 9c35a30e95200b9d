"""Count storages from birth to death while torch runs on fake tensors: needs torch."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from memcalc.replay.allocator import Block, CachingAllocator
from memcalc.tape.values import rounded


class LiveBytes(TorchDispatchMode):
    """Live bytes by kind, the highest of each phase since `restart`, and what the caching allocator would reserve."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = WeakIdKeyDictionary()
        self.allocator = CachingAllocator()
        self.live: Counter[str] = Counter()
        self.phase, self.phases = "setup", Counter[str]()
        self.paused = 0  # while tensors are made that are not there

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
        storage = (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).untyped_storage()  # noqa: SLF001
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

    def __enter__(self) -> Any:
        """Also hear of storages that are resized: FSDP frees and refills its unsharded parameters so."""
        self._resize, self._infer = torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached  # noqa: SLF001

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            out = self._resize(storage, size)
            self._resized(storage)
            return out

        def uncounted(*args: Any, **kwargs: Any) -> Any:  # shapes are inferred on tensors that no device ever holds
            self.paused += 1
            try:
                return self._infer(*args, **kwargs)
            finally:
                self.paused -= 1

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        ShardingPropagator._propagate_tensor_meta_non_cached = uncounted  # type: ignore[method-assign]  # noqa: SLF001
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        """Stop counting."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        ShardingPropagator._propagate_tensor_meta_non_cached = self._infer  # type: ignore[method-assign]  # noqa: SLF001
        super().__exit__(*exc)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        entry = self.seen.get(storage)
        if entry is None:
            return
        kind, before, block = entry
        size = rounded(storage.nbytes()) if storage.nbytes() else 0
        if before:
            self.allocator.free(block)
        entry[1], entry[2] = size, self.allocator.malloc(size) if size else []
        self.live[kind] += size - before
        self._note()

    def _bury(self, entry: tuple[str, int, Block]) -> None:
        kind, size, block = entry
        self.live[kind] -= size
        if size:
            self.allocator.free(block)

    def _note(self) -> None:
        self.phases[self.phase] = max(self.phases[self.phase], self.total)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it unwraps itself; its local operations come back here
        if func is torch.ops._c10d_functional.wait_tensor.default:  # noqa: SLF001 - its only name
            return args[0]  # on a device it is the same tensor
        out = func(*args, **(kwargs or {}))
        for leaf in () if self.paused else tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out
