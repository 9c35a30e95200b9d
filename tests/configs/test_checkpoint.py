"""Checkpoints by their small files: headers of safetensors and GGUF, adapters, packed bases; cut off, lying or hostile ones.

The layouts are those of the safetensors README and of ggml's docs/gguf.md.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs import Asked
from memcalc.configs.gguf import read_gguf
from memcalc.configs.hf_folder import read_folder, read_weights
from memcalc.configs.safetensors import read_header
from memcalc.errors import RunInvalid, UnreadableInput
from memcalc.pipeline import estimate
from tests.configs.reader import codes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
LAYER: list[tuple[str, list[int]]] = [
    ("self_attn.q_proj", [64, 64]), ("self_attn.k_proj", [32, 64]), ("self_attn.v_proj", [32, 64]),
    ("self_attn.o_proj", [64, 64]), ("mlp.gate_proj", [128, 64]), ("mlp.up_proj", [128, 64]),
    ("mlp.down_proj", [64, 128]), ("input_layernorm", [64]), ("post_attention_layernorm", [64]),
]  # fmt: skip


def tensors(vocabulary: int = 100) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of LLAMA's tensors, as save_pretrained writes them."""
    yield "model.embed_tokens.weight", [vocabulary, 64]
    for i in range(2):
        for name, shape in LAYER:
            yield f"model.layers.{i}.{name}.weight", shape
    yield "model.norm.weight", [64]
    yield "lm_head.weight", [vocabulary, 64]


PARAMETERS = 2 * 6400 + 64 + 2 * (2 * 4096 + 2 * 2048 + 3 * 8192 + 128)


def safetensors(path: Path, names: dict[str, list[int]], dtype: str = "BF16", **extra: Any) -> None:
    """A file with that header, and no data: nothing but the header may be read."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}, **extra}
    header.update({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, shape in names.items()})
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def test_a_folder_s_weights_are_those_of_its_config(folder: Path) -> None:
    safetensors(folder / "model.safetensors", dict(tensors()))
    found = read_folder(folder)
    assert found.run == {"model": str(folder)}
    assert found.warnings == ()
    assert found.assumptions[0].message.startswith("the weights are 21 tensors")
    assert estimate(str(folder)).model.parameters == PARAMETERS


def test_shards_are_read_by_their_index(folder: Path) -> None:
    every = dict(tensors())
    first = {name: every[name] for name in list(every)[:10]}
    safetensors(folder / "a.safetensors", first)
    safetensors(folder / "b.safetensors", {name: every[name] for name in every if name not in first})
    places = {name: "a.safetensors" if name in first else "b.safetensors" for name in every}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    )
    assert "21 tensors" in read_folder(folder).assumptions[0].message


def test_weights_of_another_size_are_told(folder: Path) -> None:
    safetensors(folder / "model.safetensors", dict(tensors(vocabulary=110)))
    (warning,) = read_folder(folder).warnings
    assert warning.code == "other-weights"
    assert "+1,280" in warning.message


def test_a_frozen_base_stays_in_the_dtype_it_is_stored_in(folder: Path) -> None:
    safetensors(folder / "model.safetensors", dict(tensors()), "F32")
    assert "precision" not in read_folder(folder).run
    assert read_folder(folder, Asked({"lora": 8})).run["precision"] == {"frozen": "fp32"}


def test_an_architecture_that_is_not_known_is_its_tensors(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({**LLAMA, "model_type": "brand_new", "architectures": ["BrandNewForCausalLM"]})
    )
    safetensors(folder / "model.safetensors", dict(tensors()))
    found = read_folder(folder)
    assert "no-architecture" in codes(found)
    assert estimate(str(folder)).model.parameters == PARAMETERS


def test_an_adapter_names_its_base(folder: Path) -> None:
    adapter = folder / "adapter"
    adapter.mkdir()
    given = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": ".."}
    (adapter / "adapter_config.json").write_text(json.dumps(given))
    report = estimate(str(adapter))
    assert report.model.trainable == 2 * 4 * (64 + 64 + 64 + 32)
    assert report.origins["lora.rank"].key == "r"


def test_a_packed_base_counts_packed_where_adapters_are_trained(folder: Path) -> None:
    section = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    (folder / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": section}))
    assert "stored-packed" in codes(read_folder(folder))
    found = read_folder(folder, Asked({"lora": 8}))
    assert found.run["quantize"] == {"name": "nf4", "double": True}


def test_modelopt_s_file_beside_a_config(folder: Path) -> None:
    section = {
        "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "model.layers.0*"]}
    }
    (folder / "hf_quant_config.json").write_text(json.dumps(section))
    found = read_folder(folder, Asked({"lora": 8}))
    skipped = ["lm_head", r"model\.layers\.0.*"]
    assert found.run["quantize"] == {"name": "nvfp4", "group_size": 16, "skip_modules": skipped}


def test_a_folder_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match=r"no config\.json"):
        read_folder(tmp_path)


HEADERS: list[tuple[bytes, str]] = [
    (b"", "no safetensors file"), (b"1234567", "no safetensors file"), (struct.pack("<Q", 2**40), "no safetensors file"),
    (struct.pack("<Q", 100) + b"{}", "cut off within its header"), (struct.pack("<Q", 4) + b"nope", "is not JSON"),
    (struct.pack("<Q", 2) + b"[]", "holds no tensors"), (struct.pack("<Q", 8) + b'{"a": 1}', "has no shape"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "told"), HEADERS)
def test_bad_headers_are_refused(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(UnreadableInput, match=told):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", [[-1], [2**60], "4", [1.5], [True], [1] * 9])
def test_shapes_that_no_tensor_has_are_refused(tmp_path: Path, shape: Any) -> None:
    safetensors(tmp_path / "x.safetensors", {"a": shape})
    with pytest.raises(UnreadableInput, match="no shape"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a\\b", ".hidden"])
def test_an_index_names_files_beside_it_only(folder: Path, file: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(UnreadableInput, match="no file beside it"):
        read_folder(folder)


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def gguf(path: Path, keys: dict[str, Any], infos: dict[str, tuple[int, list[int]]], version: int = 3) -> bytes:
    """A file of those keys (text, whole numbers, lists of text) and tensors; dimensions fastest first, as GGUF has them."""
    raw = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(keys))
    for key, value in keys.items():
        raw += text(key)
        if isinstance(value, str):
            raw += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            raw += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            raw += struct.pack("<II", 4, value)
    for name, (kind, shape) in infos.items():
        raw += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, 0)
    path.write_bytes(raw)
    return raw


KEYS: dict[str, Any] = {
    "general.architecture": "llama", "general.name": "tiny", "llama.block_count": 2, "llama.embedding_length": 64,
    "llama.feed_forward_length": 128, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    "llama.context_length": 64, "tokenizer.ggml.tokens": ["a", "b"],
}  # fmt: skip
Q4_K = 12
RENAMED = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def infos() -> dict[str, tuple[int, list[int]]]:
    def renamed(name: str) -> str:
        module = name.removesuffix(".weight")
        return f"{RENAMED.get(module, module.replace('model.layers', 'blk'))}.weight"

    return {renamed(name): (Q4_K, shape) for name, shape in tensors()}


def test_gguf_s_dimensions_are_a_config(tmp_path: Path) -> None:
    gguf(tmp_path / "tiny.gguf", KEYS, infos())
    found = read_weights(tmp_path / "tiny.gguf")
    assert found.warnings == ()
    assert "Q4_K" in found.assumptions[0].message
    report = estimate(str(tmp_path / "tiny.gguf"))
    assert (report.model.name, report.model.parameters) == ("tiny", PARAMETERS)
    assert read_folder(tmp_path).run == found.run


def test_gguf_counts_its_blocks(tmp_path: Path) -> None:
    gguf(tmp_path / "x.gguf", {}, {"a": (Q4_K, [2, 256]), "b": (0, [3])})
    made = read_gguf(tmp_path / "x.gguf")
    assert (made.parameters, made.bytes, made.storage) == (515, 2 * 144 + 12, "Q4_K")


def test_gguf_of_another_size_is_told(tmp_path: Path) -> None:
    gguf(tmp_path / "tiny.gguf", KEYS, {**infos(), "extra.weight": (0, [5])})
    assert "+5" in read_weights(tmp_path / "tiny.gguf").warnings[0].message


def test_gguf_of_an_unknown_architecture_asks_for_the_model(tmp_path: Path) -> None:
    gguf(tmp_path / "x.gguf", {"general.architecture": "novel"}, {"a": (0, [4])})
    with pytest.raises(RunInvalid, match="'novel' is not known"):
        read_weights(tmp_path / "x.gguf")
    assert read_weights(tmp_path / "x.gguf", Asked({"model": "gpt2"})).run == {}


def test_gguf_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    raw = gguf(tmp_path / "x.gguf", KEYS, infos())
    for end in (*range(4, 120, 5), len(raw) // 2, len(raw) - 1):
        (tmp_path / "x.gguf").write_bytes(raw[:end])
        with pytest.raises(UnreadableInput, match="cut off"):
            read_gguf(tmp_path / "x.gguf")


LIES: list[bytes] = [
    b"GGUF" + struct.pack("<IQQ", 1, 0, 0), b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
    b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 99),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 0, 2**62),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1) * 5,
    b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("raw", LIES)
def test_gguf_that_lies_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(raw)
    with pytest.raises(UnreadableInput):
        read_gguf(tmp_path / "x.gguf")
