from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memcalc import estimate
from memcalc.adapters import adapt
from memcalc.architectures import build, dimensions
from memcalc.dimensions import Dimensions
from memcalc.dtypes import nbytes
from memcalc.quantization import Stored, quantize
from memcalc.tensors import expand, parameter_count
from tests.adapters.reference import adapted, recorded, section, tensors_of

PACKED: dict[str, list[str]] = json.loads((Path(__file__).parent / "packed.json").read_text("utf-8"))["packed"]


def stored(model: str, spec: str | dict[str, Any], words: dict[str, Any] | None = None) -> Stored:
    known = recorded("cases")["models"][model]
    config = Dimensions(known["config"])
    base = tensors_of(model)
    if words is not None:
        base = adapt(base, section({"task": "none", **words}), known["model_type"], config, "quantized").tensors
    return quantize(base, spec, "bf16", known["model_type"], config)


@pytest.mark.parametrize("model", PACKED)
def test_bitsandbytes_packs_the_modules_that_transformers_converts(model: str) -> None:
    packed = {t.module for t in stored(model, "nf4").tensors if t.role == "quantized" and not t.buffer}
    assert {n for p in packed for n in expand(p)} == {n for p in PACKED[model] for n in expand(p)}


def test_k_bit_preparation_of_a_small_llama() -> None:
    """transformers' load_in_4bit and peft's prepare_model_for_kbit_training, measured on 2 layers of 64."""
    after = {t.name: t for t in stored("llama", {"name": "nf4", "upcast": True}).tensors}
    assert after["model.embed_tokens.weight"].dtype == "fp32"
    assert after["lm_head.weight"].dtype == "fp32"
    assert after["model.norm.weight"].dtype == "fp32"
    q = after["model.layers.{0..2}.self_attn.q_proj.weight"]
    assert (q.shape, q.dtype, q.role, q.trainable, q.count) == ((2048, 1), "uint8", "quantized", False, 3)
    assert not any(t.trainable for t in after.values())


def test_gptq_models_keep_their_dtypes() -> None:
    told = stored("llama", {"name": "gptq", "group_size": 4, "upcast": True})
    assert {t.dtype for t in told.tensors if t.role != "quantized"} == {""}
    assert any("leaves the dtypes" in note for note in told.notes)


def test_adapters_stay_and_are_made_of_logical_shapes() -> None:
    words = {"rank": 4, "targets": "all-linear"}
    plain, packed = adapted("llama", words), stored("llama", "nf4-double", words)
    assert [t for t in packed.tensors if t.role == "adapter"] == list(plain.adapters)
    assert parameter_count(t for t in packed.tensors if t.trainable) == plain.trainable


def test_a_copy_of_an_unpacked_module_follows_the_upcast() -> None:
    words = {"rank": 4, "save_modules": ["lm_head"]}
    for spec, dtype in (("nf4", "bf16"), ({"name": "nf4", "upcast": True}, "fp32")):
        (copy,) = [t for t in stored("llama", spec, words).tensors if "modules_to_save" in t.name]
        assert (copy.dtype, copy.trainable) == (dtype, True)


def test_a_module_trained_as_a_copy_is_left_unpacked_with_a_warning() -> None:
    told = stored("llama", "nf4", {"targets": ["q_proj"], "save_modules": ["down_proj"]})
    assert not any(t.role == "quantized" and "down_proj" in t.name for t in told.tensors)
    assert "skip_modules: [model.layers.{0..2}.mlp.down_proj]" in told.warnings[0]


@pytest.mark.parametrize(
    ("spec", "gone"),
    [
        ({"name": "nf4", "skip_modules": ["q_proj"]}, "self_attn.q_proj"),
        ({"name": "hqq", "skip_modules": ["q_proj"]}, "self_attn.q_proj"),
        ({"name": "nf4", "skip_modules": ["model.layers.1"]}, "model.layers.1."),
        ({"name": "nf4", "skip_modules": [r"model\.layers\.[01]\.mlp"]}, "model.layers.0.mlp"),
    ],
)
def test_named_modules_are_skipped_instead_of_the_default(spec: dict[str, Any], gone: str) -> None:
    packed = {n for t in stored("llama", spec).tensors if t.role == "quantized" for n in expand(t.name)}
    assert packed
    assert not any(gone in name for name in packed)
    assert any(name.startswith("lm_head") for name in packed)  # transformers drops its own list where one is given


def test_a_head_that_stays_may_be_of_any_size() -> None:
    """AWQ packs eight outputs together: 32,001 are no multiple, but the head is left as it is."""
    llama = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
             "num_attention_heads": 2, "vocab_size": 32_001, "tie_word_embeddings": False}  # fmt: skip
    report = estimate({"model": llama, "quantize": "awq", "lora": 4, "precision": "bf16", "seq_len": 64})
    assert report.memory.components.weights > 2 * 2 * 32_001 * 256


@pytest.mark.parametrize("name", ["nf4", "int8", "hqq"])
def test_stacked_experts_stay_with_a_warning(name: str) -> None:
    told = stored("mixtral", name)
    experts = sum(t.parameters for t in tensors_of("mixtral") if t.role == "expert")
    assert f"{experts:,} parameters of experts stay unpacked" in told.warnings[0]
    assert sum(t.parameters for t in told.tensors if t.role == "expert") == experts


@pytest.mark.parametrize("spec", ["mxfp4", "fp8", {"name": "nf4", "experts": True}])
def test_stacked_experts_are_packed_by_what_can(spec: str | dict[str, Any]) -> None:
    told = stored("gpt_oss", spec)
    assert not any(t.role == "expert" and len(t.shape) == 3 for t in told.tensors)


def test_conv1d_weights_are_read_transposed() -> None:
    """GPT-2 stores [inputs, outputs]; the scales are per output."""
    (scale,) = [t for t in stored("gpt2", "int8").tensors if t.name.endswith("attn.c_attn.weight_SCB")]
    assert scale.shape == (144,)


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8", "gptq"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "t5", "deepseek_v3"])
def test_nothing_is_lost_or_counted_twice(name: str, model: str) -> None:
    """Every tensor of the base is there once: as it was, or as parts under its own module."""
    before = {n for t in tensors_of(model) for n in expand(t.name)}
    told = stored(model, name).tensors
    kept = {n for t in told if t.role != "quantized" for n in expand(t.name)}
    modules = {n for t in told if t.role == "quantized" for n in expand(t.module)}
    assert kept <= before
    assert {n.removesuffix(".weight") for n in before - kept} == modules


def test_a_seven_billion_model_in_nf4() -> None:
    """Llama-2-7B under QLoRA: 224 linears of 6,476,005,376 parameters at 0.5159 bytes, the rest in bf16."""
    config = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
              "num_key_value_heads": 32, "vocab_size": 32000}  # fmt: skip
    told = quantize(build("llama", config).tensors, "nf4-double", "bf16", "llama", dimensions("llama", config))
    packed = sum(t.count * nbytes(t.elements, t.dtype) for t in told.tensors if t.role == "quantized")
    assert packed == 32 * (4 * 8655940 + 3 * 23260996)


@pytest.mark.parametrize(("name", "refused"), [
    ("nf4", False), ("int8", False), ("gptq", False), ("fp8", False), ("torchao-int8", False), ("quanto-int8", False),
    ("torchao-int4", True), ("mxfp4", True), ("nvfp4", True), ("fbgemm-fp8", True),
])  # fmt: skip
def test_what_the_trainer_refuses_to_train_over(name: str, refused: bool) -> None:
    """HfQuantizer.is_trainable of transformers 5.23 (quantizers/quantizer_….py)."""
    warned = estimate({"model": "llama-3.2-1b", "lora": 8, "quantize": name}).warnings
    assert any("refuse" in note.message for note in warned) is refused
