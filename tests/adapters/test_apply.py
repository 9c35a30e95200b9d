from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.adapters import Adapted, Lora, adapt
from memcalc.adapters.apply import adapter_dtype, task_of
from memcalc.dimensions import Dimensions
from tests.adapters.reference import adapted, section, tensors_of

if TYPE_CHECKING:
    from memcalc.tensors import Tensor


def named(made: Adapted, ending: str) -> Tensor:
    (found,) = [t for t in made.tensors if t.name.endswith(ending)]
    return found


def test_adapters_have_the_library_s_names_and_the_base_is_frozen() -> None:
    made = adapted("llama", {"rank": 4, "targets": ["q_proj"]})
    assert [t.name for t in made.adapters] == [
        "model.layers.{0..2}.self_attn.q_proj.lora_A.default.weight",
        "model.layers.{0..2}.self_attn.q_proj.lora_B.default.weight",
    ]
    assert [(t.shape, t.count, t.role, t.dtype) for t in made.adapters] == [
        ((4, 64), 3, "adapter", "fp32"), ((64, 4), 3, "adapter", "fp32"),
    ]  # fmt: skip
    assert not any(t.trainable for t in made.base)
    assert [t.name for t in made.base] == [t.name for t in tensors_of("llama")]


def test_sites_say_what_sits_where() -> None:
    made = adapted("llama", {"rank": 4, "targets": ["v_proj", "down_proj"], "layers": [0, 2]})
    assert [(s.module, s.count, s.inputs, s.outputs, s.rank) for s in made.sites] == [
        ("model.layers.{0,2}.self_attn.v_proj", 2, 64, 32, 4),
        ("model.layers.{0,2}.mlp.down_proj", 2, 172, 64, 4),
    ]


@pytest.mark.parametrize(
    ("asked", "base", "dtype"),
    [(None, "bf16", "fp32"), (None, "fp32", "fp32"), (None, "fp64", "fp64"), ("bf16", "fp32", "bf16"),
     (None, "quantized", "fp32")],
)  # fmt: skip
def test_adapters_are_wide_unless_asked_otherwise(asked: str | None, base: str, dtype: str) -> None:
    assert adapter_dtype(section({"dtype": asked}), base) == dtype


def test_biases_of_adapted_modules_alone_are_trained() -> None:
    made = adapted("llama-bias", {"targets": ["q_proj"], "bias": "lora_only", "layers": [1]})
    trained = [t.name for t in made.base if t.trainable]
    assert trained == ["model.layers.1.self_attn.q_proj.bias"]
    assert sum(t.count for t in made.base) == sum(t.count for t in tensors_of("llama-bias"))


@pytest.mark.parametrize(
    ("name", "more", "task"),
    [
        ("BertForSequenceClassification", {}, "SEQ_CLS"),
        ("RobertaForTokenClassification", {}, "TOKEN_CLS"),
        ("BertForQuestionAnswering", {}, "QUESTION_ANS"),
        ("T5ForConditionalGeneration", {"is_encoder_decoder": True}, "SEQ_2_SEQ_LM"),
        ("LlavaForConditionalGeneration", {}, ""),
        ("LlamaForCausalLM", {}, ""),
        ("ViTForImageClassification", {}, ""),
    ],
)
def test_the_task_follows_the_model_s_class(name: str, more: dict[str, object], task: str) -> None:
    assert task_of(Dimensions({"architectures": [name], **more})) == task
    assert task_of(None) == ""


def test_a_classifier_is_trained_as_a_copy_unless_the_task_is_none() -> None:
    config = Dimensions({"architectures": ["LlamaForSequenceClassification"], "vocab_size": 250})
    made = adapt(tensors_of("llama-cls"), Lora(rank=4), "llama", config)
    assert [t.name for t in made.saved] == ["score.modules_to_save.default.weight"]
    assert any("`task: none`" in note for note in made.notes)
    assert not adapt(tensors_of("llama-cls"), Lora(rank=4, task="none"), "llama", config).saved


def test_a_saved_module_keeps_its_frozen_original() -> None:
    made = adapted("llama", {"save_modules": ["lm_head"]})
    copy, original = named(made, "lm_head.modules_to_save.default.weight"), named(made, "lm_head.weight")
    assert (copy.trainable, copy.dtype, copy.shape) == (True, "bf16", original.shape)
    assert not original.trainable


@pytest.mark.parametrize(("tie", "copies"), [(False, 2), (True, 1)])
def test_copies_of_tied_modules(tie: bool, copies: int) -> None:
    made = adapted("llama-tied", {"save_modules": ["embed_tokens", "lm_head"], "tie_saved": tie})
    assert len(made.saved) == copies
    assert all(not t.tied_to for t in made.saved)


def test_vera_shares_its_projections() -> None:
    made = adapted("llama", {"method": "vera", "rank": 16, "targets": ["q_proj", "down_proj"]})
    assert [(t.name, t.shape, t.count, t.buffer) for t in made.buffers] == [
        ("vera_A.default", (16, 172), 1, True), ("vera_B.default", (64, 16), 1, True),
    ]  # fmt: skip


def test_experts_carry_a_rank_each() -> None:
    made = adapted("mixtral", {"rank": 4, "targets": ["q_proj", "w1", "w2", "w3"]})
    shapes = {t.name.partition(".experts.")[2]: t.shape for t in made.adapters if ".experts." in t.name}
    assert shapes == {
        "base_layer.lora_A.default.weight": (2 * 4 * 4, 64),  # gate and up fused: twice the rank, four experts
        "base_layer.lora_B.default.weight": (2 * 172, 2 * 4 * 4),
        "lora_A.default.weight": (4 * 4, 172),
        "lora_B.default.weight": (64, 4 * 4),
    }
