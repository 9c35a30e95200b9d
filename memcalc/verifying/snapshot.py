"""A memory snapshot of PyTorch (torch.cuda.memory._dump_snapshot): the most that its trace allocated and reserved."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.errors import UnreadableInput
from memcalc.verifying.values import Measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GROWS = {"alloc": (1, 0), "free_requested": (-1, 0), "segment_alloc": (0, 1), "segment_map": (0, 1),
         "segment_free": (0, -1), "segment_unmap": (0, -1)}  # fmt: skip


class _PlainData(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers, which is all that a snapshot holds; nothing in the file is called."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:  # noqa: ANN401 - pickle's own signature
        raise pickle.UnpicklingError(f"it holds {module_name}.{global_name}, and not plain data alone")


def peaks(file: str) -> list[Measured]:
    """What the GPU with the most of it allocated and reserved at most while the snapshot's trace was recorded.

    A trace that was not recorded from the start still ends in the state that the snapshot holds, so it is walked
    backwards from there (torch/cuda/memory.py, _snapshot, describes both). UnreadableInput where it is no snapshot.
    """
    try:
        data = _PlainData(io.BytesIO(Path(file).read_bytes())).load()
        traces = data["device_traces"]
        ends = [_held(data["segments"], device) for device in range(len(traces))]
        tops = [_top(end, trace) for end, trace in zip(ends, traces, strict=True)]
    except OSError as error:
        raise UnreadableInput(f"{file} can't be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises anything
        raise UnreadableInput(f"{file} is no memory snapshot: {error or type(error).__name__}") from None
    found = zip(("peak_allocated", "reserved"), (max(sizes) for sizes in zip(*tops, strict=True)), strict=True)
    return [Measured(path, size, f"{file}: its trace") for path, size in found if size]


def _held(segments: Iterable[dict[str, Any]], device: int) -> tuple[int, int]:
    """(allocated, reserved) bytes of one GPU when the snapshot was made."""
    own = [segment for segment in segments if segment.get("device", 0) == device]
    return sum(segment["allocated_size"] for segment in own), sum(segment["total_size"] for segment in own)


def _top(end: tuple[int, int], trace: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The most of both over a trace that ends with `end`."""
    allocated, reserved = top = end
    for event in reversed(trace):
        of_allocated, of_reserved = GROWS.get(event["action"], (0, 0))
        allocated -= of_allocated * event["size"]
        reserved -= of_reserved * event["size"]
        top = max(top[0], allocated), max(top[1], reserved)
    return top
