"""DeBERTa: relative positions, shared projections, the convolution and the two masked-LM heads."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.basic import Embedding
from memcalc.blocks.disentangled import DisentangledAttention, FirstLayerConv, RelativeTable
from memcalc.blocks.seq2seq import Unembed
from tests.architectures.walk import kinds

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 97,
    "max_position_embeddings": 33, "relative_attention": True,
}  # fmt: skip

SPANS: list[tuple[str, dict[str, Any], int]] = [
    ("deberta-v2", {}, 33),
    ("deberta-v2", {"max_relative_positions": 7}, 7),
    ("deberta-v2", {"position_buckets": 5}, 5),
    ("deberta", {"position_buckets": 5}, 33),
]


@pytest.mark.parametrize(("model_type", "keys", "span"), SPANS)
def test_the_table_has_twice_the_span(model_type: str, keys: dict[str, Any], span: int) -> None:
    model = build(model_type, {**SMALL, **keys})
    assert {b.span for b in kinds(model, DisentangledAttention)} == {span}
    assert [b.rows for b in kinds(model, Embedding) if b.name == "rel_embeddings"] == [2 * span]


@pytest.mark.parametrize(("written", "wanted"), [
    (["p2c", "c2p"], (True, True)), ("c2p|p2c", (True, True)), (["c2p"], (True, False)), (None, (False, False)),
])  # fmt: skip
def test_the_terms_of_the_scores_are_a_list_or_a_string(written: Any, wanted: tuple[bool, bool]) -> None:
    mixers = kinds(build("deberta-v2", {**SMALL, "pos_att_type": written}), DisentangledAttention)
    assert {(b.c2p, b.p2c) for b in mixers} == {wanted}


def test_without_relative_attention_there_is_neither_table_nor_term() -> None:
    model = build("deberta-v2", {**SMALL, "relative_attention": False, "pos_att_type": ["c2p"]})
    assert not kinds(model, RelativeTable)
    assert not any(b.c2p for b in kinds(model, DisentangledAttention))


def test_shared_projections_need_none_of_their_own() -> None:
    keys = {"pos_att_type": ["c2p", "p2c"]}
    own, shared = (build("deberta-v2", {**SMALL, **keys, "share_att_key": share}) for share in (False, True))
    assert all(b.pos_key and b.pos_query for b in kinds(own, DisentangledAttention))
    assert not any(b.pos_key or b.pos_query for b in kinds(shared, DisentangledAttention))


def test_a_convolution_stands_beside_the_first_layer_where_the_config_gives_a_kernel() -> None:
    assert not kinds(build("deberta-v2", SMALL), FirstLayerConv)
    found = kinds(build("deberta-v2", {**SMALL, "conv_kernel_size": 3, "conv_act": "gelu"}), FirstLayerConv)
    assert [block.activation for block in found] == ["gelu"]


def test_the_head_that_is_not_legacy_multiplies_with_the_embedding_itself() -> None:
    model = build("deberta-v2", {**SMALL, "legacy": False})
    assert len(kinds(model, Unembed)) == 1
    assert [t.name for t in model.tensors if 97 in t.shape] == [
        "deberta.embeddings.word_embeddings.weight",
        "lm_predictions.lm_head.bias",
    ]
