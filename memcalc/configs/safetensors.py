"""The headers of safetensors files: names, dtypes and shapes of tensors, without a byte of their data.

The layout (huggingface/safetensors, README "Format"): eight bytes that say how long the header is, little-endian; that many
bytes of JSON, {name: {dtype, shape, data_offsets}} with `__metadata__` beside them; then the data. An index file maps the
tensors of a checkpoint to its shards.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from memcalc.dataclass import dataclass
from memcalc.errors import UnreadableInput, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

LONGEST: Final = 100_000_000  # bytes of a header: what the format's own reader takes
MOST_SHARDS: Final = 2_000
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
BITS: Final[dict[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64,
    "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
NAMES: Final = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}
_BUFFERS: Final = (".inv_freq", ".masked_bias", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
_SCALES: Final = (
    ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", "_scale_inv", "_scale", "_scale_2", "_scales",
    ".qzeros", ".scales", ".g_idx", ".SCB", ".weight_format", "_zero_point", "_shape", ".k_scale", ".v_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a header: dtype in the format's own word, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements as they are stored."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return -(-self.elements * BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint, of all its shards; `packed` where some of them hold several weights to an element."""

    tensors: Mapping[str, Entry]

    @property
    def packed(self) -> bool:
        """Whether scales stand beside the weights, as in every quantised checkpoint."""
        return any(name.endswith((*_SCALES, ".qweight", "_blocks")) or ".quant_state." in name for name in self.tensors)

    @property
    def parameters(self) -> int:
        """Elements of all tensors but the tables that some classes used to save with them."""
        return sum(entry.elements for name, entry in self.tensors.items() if not _is_buffer(name, entry))

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.bytes for entry in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The dtype that most elements have, by memcalc's name of it; '' where it is no float."""
        count: dict[str, int] = {}
        for entry in self.tensors.values():
            count[entry.dtype] = count.get(entry.dtype, 0) + entry.elements
        most = max(count, key=lambda dtype: count[dtype], default="")
        return NAMES.get(most, "")


def _is_buffer(name: str, entry: Entry) -> bool:
    return name.endswith(_BUFFERS) or (name.endswith(".attn.bias") and len(entry.shape) == 4)


def parse_header(raw: bytes, source: str) -> dict[str, Entry]:
    """The tensors of a header's JSON; UnreadableInput where it is none."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise UnreadableInput(
            f"{source}: its header is not JSON; the file is cut off, or no safetensors file"
        ) from None
    if not isinstance(data, dict):
        raise UnreadableInput(f"{source}: its header holds no tensors")
    return {
        str(name): _entry(item, f"{source}: {shorten(str(name))}")
        for name, item in data.items()
        if name != "__metadata__"
    }


def _entry(item: Any, where: str) -> Entry:  # noqa: ANN401
    shape: Any = item.get("shape") if isinstance(item, dict) else None
    sized = (
        isinstance(shape, list) and len(shape) <= 8 and all(type(size) is int and 0 <= size <= 2**48 for size in shape)
    )
    if not sized or not isinstance(item.get("dtype"), str):
        raise UnreadableInput(f"{where} has no shape or no dtype")
    return Entry(item["dtype"], tuple(shape))


def header_length(first: bytes, source: str) -> int:
    """Bytes of the header, from the first eight of the file."""
    length = int.from_bytes(first, "little") if len(first) == 8 else 0
    if not 2 <= length <= LONGEST:
        raise UnreadableInput(f"{source} is no safetensors file: its first eight bytes are not the length of a header")
    return length


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one file."""
    try:
        with path.open("rb") as file:
            length = header_length(file.read(8), str(path))
            raw = file.read(length)
    except OSError as error:
        raise UnreadableInput(f"{path} can't be read: {error.strerror or error}") from None
    if len(raw) < length:
        raise UnreadableInput(f"{path} is cut off within its header ({len(raw)} of {length} bytes)")
    return parse_header(raw, str(path))


def shards_of(index: Mapping[str, Any], source: str) -> list[str]:
    """The files that an index names, in order; UnreadableInput where one of them is no plain name."""
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UnreadableInput(f"{source} has no weight_map")
    files = sorted({str(file) for file in placed.values()})
    strange = next((file for file in files if "/" in file or "\\" in file or file.startswith(".")), None)
    if strange is not None or len(files) > MOST_SHARDS:
        what = f"names {shorten(strange)!r}, which is no file beside it" if strange else f"names {len(files)} files"
        raise UnreadableInput(f"{source} {what}")
    return files


def gathered(files: Iterable[str], header: Callable[[str], dict[str, Entry]]) -> Weights:
    """The tensors of several files."""
    tensors: dict[str, Entry] = {}
    for file in files:
        tensors.update(header(file))
    return Weights(tensors)
