"""BERT and its kin: the order of their blocks, their dropouts, positions and masks."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import PostNorm, Residual, Stack
from memcalc.blocks.basic import Dropout, Embedding, Norm, Select
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Fork
from memcalc.blocks.sparse import LocalGlobalAttention
from tests.architectures.walk import kinds, order

SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 97}


def test_berts_layer_is_post_norm() -> None:
    model = build("bert", {**SMALL, "architectures": ["BertModel"]})
    assert order(model, PostNorm, Attention, Mlp, Norm, Dropout) == [
        "Norm", "Dropout",  # embeddings
        "PostNorm", "Attention", "Dropout", "Norm",
        "PostNorm", "Mlp", "Dropout", "Norm",
    ]  # fmt: skip


def test_xlm_roberta_xls_layer_is_pre_norm_and_ends_with_a_norm() -> None:
    model = build("xlm-roberta-xl", {**SMALL, "architectures": ["XLMRobertaXLModel"]})
    assert order(model, Residual, Attention, Mlp, Norm, Dropout) == [
        "Dropout",
        "Residual", "Norm", "Attention", "Dropout",
        "Residual", "Norm", "Mlp",  # its feed-forward has no dropout behind it (XLMRobertaXLOutput)
        "Norm",
    ]  # fmt: skip


def test_big_birds_embeddings_are_dropped_before_they_are_normed() -> None:
    assert order(build("big_bird", SMALL), Norm, Dropout)[:2] == ["Dropout", "Norm"]


def test_dropouts_are_the_configs() -> None:
    model = build("bert", {**SMALL, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2})
    assert {block.p for block in kinds(model, Dropout)} == {0.3}
    assert {block.dropout for block in kinds(model, Attention)} == {0.2}


def test_a_classifiers_dropout_is_its_own_where_the_config_has_one() -> None:
    config = {**SMALL, "architectures": ["BertForSequenceClassification"], "classifier_dropout": 0.0}
    assert kinds(build("bert", config), Dropout)[-1].p == 0.0


def test_encoders_look_both_ways_unless_they_are_decoders() -> None:
    assert not any(block.causal for block in kinds(build("bert", SMALL), Attention))
    decoder = build("bert", {**SMALL, "is_decoder": True, "add_cross_attention": True})
    assert [(block.causal, block.cross) for block in kinds(decoder, Attention)] == [(True, False), (False, True)]


def test_robertas_positions_are_each_tokens_own_and_begin_after_the_padding_index() -> None:
    assert build("roberta", {"max_position_embeddings": 514}).context == 512
    assert build("bert", {}).context == 512
    indices = {block.name: block.index for block in kinds(build("roberta", SMALL), Embedding)}
    assert indices["position_embeddings"] == "token-positions"
    assert indices["token_type_embeddings"] == "types"


def test_pre_training_has_two_heads_beside_each_other() -> None:
    fork = kinds(build("bert", {**SMALL, "architectures": ["BertForPreTraining"]}), Fork)
    assert len(fork) == 1
    assert len(fork[0].branches) == 2


@pytest.mark.parametrize(("name", "pooled"), [("ForSequenceClassification", 1), ("ForTokenClassification", 0)])
def test_a_sequence_is_classified_by_its_first_token(name: str, pooled: int) -> None:
    assert len(kinds(build("bert", {**SMALL, "architectures": [f"Bert{name}"]}), Select)) == pooled


def test_alberts_layers_are_passed_over_again() -> None:
    config = {**SMALL, "embedding_size": 16, "num_hidden_layers": 12, "num_hidden_groups": 3}
    groups = next(block for block in kinds(build("albert", config), Stack) if block.name == "albert_layer_groups")
    assert (len(groups.layers), groups.shared) == (3, 4)


WINDOWS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 65, 65, 0, 65]),
    ({"global_attn_every_n_layers": 2, "local_attention": 32}, [0, 17, 0, 17, 0]),
    ({"layer_types": ["sliding_attention"] * 5}, [65] * 5),
]


@pytest.mark.parametrize(("keys", "wanted"), WINDOWS)
def test_modernberts_layers_are_mostly_local(keys: dict[str, Any], wanted: list[int]) -> None:
    model = build("modernbert", {**SMALL, "num_hidden_layers": 5, **keys})
    assert [block.window for block in kinds(model, Attention)] == wanted


def test_longformers_windows_are_one_for_all_or_one_each() -> None:
    same, own = (build("longformer", {**SMALL, "num_hidden_layers": 2, "attention_window": w}) for w in (8, [4, 6]))
    assert [block.window for block in kinds(same, LocalGlobalAttention)] == [8, 8]
    assert [block.window for block in kinds(own, LocalGlobalAttention)] == [4, 6]
