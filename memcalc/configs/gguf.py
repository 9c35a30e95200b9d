"""GGUF files: a model's dimensions and the shapes and types of its tensors, from the file's header alone.

ggml-org/ggml, docs/gguf.md: magic, version, counts, key-value pairs, tensor infos. transformers reads such a file by
unpacking it (integrations/ggml.py, whose names of dimensions are used here), so a run trains the unpacked weights.
"""

from __future__ import annotations

import math
import struct
from typing import IO, TYPE_CHECKING, Any, Final

from memcalc.dataclass import dataclass
from memcalc.errors import UnreadableInput, shorten

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"GGUF"
MOST: Final = 100_000  # keys, and tensors
LONGEST: Final = 1 << 20  # bytes of one text
MOST_ITEMS: Final = 5_000_000  # of one array: a vocabulary and its merges are far smaller
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# ggml type: (name, elements of a block, bytes of a block); ggml/include/ggml.h and ggml-common.h
TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip

# general.architecture -> model_type, where they differ (integrations/ggml.py and modeling_gguf_pytorch_utils.py)
_TYPES_OF_MODELS: Final = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "command-r": "cohere",
                           "deci": "llama", "minimax-m2": "minimax_m2", "gptneox": "gpt_neox", "phi2": "phi"}  # fmt: skip
_DIMENSIONS: Final = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads", "vocab_size": "vocab_size",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim", "expert_count": "num_experts",
    "attention.sliding_window": "sliding_window", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}  # fmt: skip
_OWN: Final = {
    "gpt2": {
        "block_count": "n_layer", "context_length": "n_positions", "embedding_length": "n_embd", "vocab_size": "vocab_size",
        "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    },
    "bloom": {
        "block_count": "n_layer", "embedding_length": "hidden_size", "attention.head_count": "n_head",
        "vocab_size": "vocab_size",
    },
    "mamba": {
        "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "ssm.conv_kernel": "conv_kernel",
        "ssm.state_size": "state_size", "ssm.time_step_rank": "time_step_rank", "ssm.inner_size": "intermediate_size",
        "vocab_size": "vocab_size",
    },
    "t5": {
        "block_count": "num_layers", "embedding_length": "d_model", "feed_forward_length": "d_ff",
        "attention.key_length": "d_kv", "attention.head_count": "num_heads", "vocab_size": "vocab_size",
    },
}  # fmt: skip
_HEADS_ARE_WHOLE: Final = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "phi3",
    "starcoder2",
    "stablelm",
    "falcon",
)


@dataclass(frozen=True)
class Gguf:
    """A header: key-value pairs (of arrays their length, or their numbers where they are few), and the tensors' infos."""

    keys: dict[str, Any]
    tensors: dict[str, tuple[int, tuple[int, ...]]]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's kind."""
        return str(self.keys.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors as they are packed."""
        return sum(_packed(kind, math.prod(shape)) for kind, shape in self.tensors.values())

    @property
    def storage(self) -> str:
        """The type that most elements have, by ggml's name of it."""
        count: dict[int, int] = {}
        for kind, shape in self.tensors.values():
            count[kind] = count.get(kind, 0) + math.prod(shape)
        most = max(count, key=lambda kind: count[kind], default=-1)
        return TYPES.get(most, (f"type {most}", 1, 1))[0]


def _packed(kind: int, elements: int) -> int:
    _, block, size = TYPES.get(kind, ("", 1, 1))
    return -(-elements // block) * size


def read_gguf(path: Path) -> Gguf:
    """The header of a file; UnreadableInput where it is cut off, too large or of a version that is not known."""
    try:
        with path.open("rb") as file:
            return _Reader(file, str(path)).header()
    except OSError as error:
        raise UnreadableInput(f"{path} can't be read: {error.strerror or error}") from None


class _Reader:
    """Reads one value after the other, bounded."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self.file, self.source = file, source

    def header(self) -> Gguf:
        if self.take(4) != MAGIC:
            raise UnreadableInput(f"{self.source} is no GGUF file")
        version = self.number("I")
        if version not in (2, 3):
            raise UnreadableInput(f"{self.source} is GGUF version {version}; 2 and 3 are read")
        tensors, pairs = self.number("Q"), self.number("Q")
        if tensors > MOST or pairs > MOST:
            raise UnreadableInput(f"{self.source} says it has {tensors} tensors and {pairs} keys; no model has as many")
        keys = {self.text(): self.value(self.number("I"), 0) for _ in range(pairs)}
        return Gguf(keys, dict(self.tensor() for _ in range(tensors)))

    def tensor(self) -> tuple[str, tuple[int, tuple[int, ...]]]:
        """Name, type and shape; dimensions come fastest first, and torch's last."""
        name, dimensions = self.text(), self.number("I")
        if dimensions > 8:
            raise UnreadableInput(f"{self.source}: {shorten(name)} has {dimensions} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
        kind, _offset = self.number("I"), self.number("Q")
        if math.prod(shape) > 2**48:
            raise UnreadableInput(f"{self.source}: {shorten(name)} has no size that a tensor has")
        return name, (kind, shape)

    def value(self, kind: int, depth: int) -> Any:  # noqa: ANN401
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY and depth < 3:
            return self.array(depth)
        raise UnreadableInput(f"{self.source}: a value of type {kind} is not known")

    def array(self, depth: int) -> Any:  # noqa: ANN401
        """Few numbers as a list; of anything else how many there are."""
        kind, count = self.number("I"), self.number("Q")
        if count > MOST_ITEMS:
            raise UnreadableInput(f"{self.source}: an array of {count} values; no model has as many")
        if kind in _NUMBERS:
            code = _NUMBERS[kind]
            raw = self.take(count * struct.calcsize(f"<{code}"))
            return list(struct.unpack(f"<{count}{code}", raw)) if count <= 4096 else count
        for _ in range(count):
            self.value(kind, depth + 1)
        return count

    def text(self) -> str:
        length = self.number("Q")
        if length > LONGEST:
            raise UnreadableInput(f"{self.source}: a text of {length} bytes in its header")
        return self.take(length).decode("utf-8", "replace")

    def number(self, code: str) -> Any:  # noqa: ANN401
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def take(self, count: int) -> bytes:
        raw = self.file.read(count)
        if len(raw) < count:
            raise UnreadableInput(f"{self.source} is cut off within its header")
        return raw


def config_of(made: Gguf) -> dict[str, Any] | None:
    """The config.json that the header stands for; None where the architecture has none that is known."""
    from memcalc.presets import has  # noqa: PLC0415

    own = made.architecture
    model_type = _TYPES_OF_MODELS.get(own, own)
    if own == "llama" and made.keys.get("llama.expert_count"):
        model_type = "mixtral"
    if not has("architectures", model_type):
        return None
    names = _OWN.get(model_type, _DIMENSIONS)
    config = {
        ours: _dimension(made.keys[f"{own}.{theirs}"])
        for theirs, ours in names.items()
        if f"{own}.{theirs}" in made.keys
    }
    vocabulary = made.tensors.get("token_embd.weight")
    if vocabulary:
        config["vocab_size"] = vocabulary[1][0]
    if model_type == "mixtral":
        config["num_local_experts"] = config.pop("num_experts", None)
    if model_type in _HEADS_ARE_WHOLE:
        config.pop("head_dim", None)
    config["tie_word_embeddings"] = "output.weight" not in made.tensors
    return {"model_type": model_type, **{key: value for key, value in config.items() if value is not None}}


def _dimension(value: Any) -> Any:  # noqa: ANN401 - a number, or one per layer
    return max(value) if isinstance(value, list) and value and all(isinstance(v, int) for v in value) else value
