"""Which head a config's class asks for; how many labels it has; what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build, dimensions
from memcalc.architectures.heads import channels, kind, labels, task
from memcalc.errors import RunInvalid

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 97}

TASKS = [
    ("BertForMaskedLM", "ForMaskedLM"),
    ("LongformerForSequenceClassification", "ForSequenceClassification"),
    ("RoFormerForMaskedLM", "ForMaskedLM"),
    ("BertLMHeadModel", "LMHeadModel"),
    ("T5WithLMHeadModel", "WithLMHeadModel"),
    ("MarianMTModel", "MTModel"),
    ("T5EncoderModel", "EncoderModel"),
    ("BertModel", "Model"),
]


@pytest.mark.parametrize(("name", "wanted"), TASKS)
def test_the_task_is_what_the_class_ends_in(name: str, wanted: str) -> None:
    assert task(dimensions("bert", {"architectures": [name]})) == wanted


def test_a_class_without_a_name_is_that_of_the_card() -> None:
    assert task(dimensions("electra", {})) == "ForPreTraining"
    assert task(dimensions("bert", {"architectures": None})) == "Model"


LABELS: list[tuple[dict[str, Any], int]] = [
    ({}, 2),
    ({"num_labels": 5}, 5),
    ({"id2label": {"0": "no", "1": "yes", "2": "maybe"}}, 3),
    ({"id2label": {"0": "no", "1": "yes", "2": "maybe"}, "num_labels": 5}, 5),
    ({"id2label": None, "num_labels": None}, 2),
]


@pytest.mark.parametrize(("keys", "wanted"), LABELS)
def test_labels_are_counted_as_the_library_does(keys: dict[str, Any], wanted: int) -> None:
    assert labels(dimensions("bert", keys)) == wanted


def test_bart_has_three_labels_unless_told_otherwise() -> None:
    assert labels(dimensions("bart", {}), 3) == 3
    assert labels(dimensions("bart", {"id2label": {"0": "a"}}), 3) == 1


def test_kinds_follow_the_task() -> None:
    tasks = ["ForMaskedLM", "ForCausalLM", "MTModel", "EncoderModel", "Model", "ForTokenClassification"]
    assert [kind(name) for name in tasks] == ["masked-lm", "causal-lm", "seq2seq", "encoder", "encoder", "classifier"]


def test_a_head_that_the_architecture_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(RunInvalid, match=r"model\.architectures: a bert with the head 'ForDreaming'.*ForMaskedLM"):
        build("bert", {**SMALL, "architectures": ["BertForDreaming"]})


def test_heads_must_divide_the_width() -> None:
    assert channels(24, 3) == 8
    with pytest.raises(RunInvalid, match=r"model\.n_heads: 5 heads do not divide a width of 24"):
        channels(24, 5, "n_heads")


@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta", "longformer", "modernbert", "mpnet"])
def test_an_encoder_whose_heads_do_not_divide_its_width_is_refused(model_type: str) -> None:
    with pytest.raises(RunInvalid, match=r"model\.num_attention_heads"):
        build(model_type, {**SMALL, "num_attention_heads": 5})


def test_the_loss_of_a_causal_head_reads_an_fp32_copy_and_that_of_a_masked_one_does_not() -> None:
    assert build("roberta", {**SMALL, "architectures": ["RobertaForCausalLM"]}).loss_fp32
    assert not build("roberta", SMALL).loss_fp32
    assert build("modernbert", SMALL).loss_fp32  # its loss is the library's general one


def test_a_question_has_two_choices_unless_told_otherwise() -> None:
    classed = {**SMALL, "architectures": ["BertForMultipleChoice"]}
    assert build("bert", classed).choices == 2
    assert build("bert", {**classed, "num_choices": 4}).choices == 4
    assert build("bert", {**SMALL, "architectures": ["BertForSequenceClassification"]}).choices == 1


def test_the_last_layer_of_lilt_makes_nothing_of_boxes() -> None:
    tensors = {tensor.name: tensor.idle for tensor in build("lilt", {**SMALL, "hidden_size": 48}).tensors}
    assert tensors["lilt.encoder.layer.1.layout_output.dense.weight"]
    assert not tensors["lilt.encoder.layer.0.layout_output.dense.weight"]


def test_an_encoder_decoder_projects_where_its_models_are_not_as_wide() -> None:
    wider = {**SMALL, "model_type": "bert", "hidden_size": 48, "is_decoder": True}
    names = {tensor.name for tensor in build("encoder-decoder", {"encoder": SMALL, "decoder": wider}).tensors}
    assert "enc_to_dec_proj.weight" in names
    with pytest.raises(RunInvalid, match="is_decoder"):
        build("encoder-decoder", {"encoder": SMALL, "decoder": SMALL})
