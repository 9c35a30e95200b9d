"""T5 and its kin: pre-norm order, biases of the scores, ties and vocabularies."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Residual
from memcalc.blocks.basic import Dropout, Linear, Norm, Scale
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Decoder, Encoder
from tests.architectures.walk import every, kinds, order

SMALL = {"d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 3, "num_heads": 3, "vocab_size": 97}


def test_a_decoder_layer_is_pre_norm_with_a_dropout_behind_each_block() -> None:
    model = build("t5", {**SMALL, "num_layers": 1, "architectures": ["T5Model"]})
    decoder = [type(block).__name__ for block in every(kinds(model, Decoder)[0])]
    running = [name for name in decoder if name in {"Residual", "Norm", "Attention", "Mlp", "Dropout"}]
    assert running == [
        "Dropout",
        "Residual", "Norm", "Attention", "Dropout",
        "Residual", "Norm", "Attention", "Dropout",
        "Residual", "Norm", "Mlp", "Dropout",
        "Norm", "Dropout",
    ]  # fmt: skip
    assert order(model, Residual).count("Residual") == 5


def test_the_first_layer_looks_up_the_biases_of_all() -> None:
    encoder = kinds(build("t5", SMALL), Encoder)[0]
    mixers = [block for block in every(encoder) if isinstance(block, Attention)]
    assert [bool(block.bias_table) for block in mixers] == [True, False, False]
    assert all(block.scores_bias for block in mixers)


def test_umt5_looks_them_up_in_every_layer() -> None:
    mixers = [block for block in kinds(build("umt5", SMALL), Attention) if not block.cross]
    assert all(block.bias_table for block in mixers)


def test_cross_attention_is_neither_causal_nor_has_a_table() -> None:
    cross = [block for block in kinds(build("t5", SMALL), Attention) if block.cross]
    assert [(block.causal, block.bias_table) for block in cross] == [(False, None)] * 3


def test_a_tied_head_reads_scaled_states_and_an_untied_one_does_not() -> None:
    tied, own = (build("t5", {**SMALL, "tie_word_embeddings": tie}) for tie in (True, False))
    assert len(kinds(tied, Scale)) == 1
    assert not kinds(own, Scale)
    assert own.parameters - tied.parameters == 97 * 24


def test_long_t5_is_always_tied() -> None:
    tied, told = (build("longt5", {**SMALL, "tie_word_embeddings": tie}) for tie in (True, False))
    assert tied.parameters == told.parameters


FEED_FORWARDS: list[tuple[str, bool, str]] = [
    ("relu", False, "relu"),
    ("gated-gelu", True, "gelu_new"),
    ("gated-silu", True, "silu"),
    ("gelu", False, "gelu"),
]


@pytest.mark.parametrize(("written", "gated", "activation"), FEED_FORWARDS)
def test_feed_forward_proj_says_gate_and_activation(written: str, gated: bool, activation: str) -> None:
    mlp = kinds(build("t5", {**SMALL, "feed_forward_proj": written}), Mlp)[0]
    assert (bool(mlp.gate), mlp.activation, mlp.dropout) == (gated, activation, 0.1)


HALVES: list[tuple[str, dict[str, Any], int, int]] = [
    ("T5ForConditionalGeneration", {}, 3, 3),
    ("T5ForConditionalGeneration", {"num_decoder_layers": 2}, 3, 2),
    ("T5ForConditionalGeneration", {"num_decoder_layers": 0}, 3, 0),
    ("T5EncoderModel", {}, 3, 0),
    ("T5ForTokenClassification", {}, 3, 0),
]


@pytest.mark.parametrize(("name", "keys", "encoder", "decoder"), HALVES)
def test_layers_of_each_half(name: str, keys: dict[str, Any], encoder: int, decoder: int) -> None:
    model = build("t5", {**SMALL, **keys, "architectures": [name]})
    found = [sum(isinstance(b, Mlp) for half in kinds(model, side) for b in every(half)) for side in (Encoder, Decoder)]
    assert found == [encoder, decoder]


def test_the_old_name_of_the_class_is_understood() -> None:
    old, new = (
        build("t5", {**SMALL, "architectures": [f"T5{n}"]}) for n in ("WithLMHeadModel", "ForConditionalGeneration")
    )
    assert old.parameters == new.parameters
    assert old.kind == new.kind == "seq2seq"


def test_sparse_layers_of_switch_transformers_alternate_as_the_config_says() -> None:
    model = build("switch_transformers", {**SMALL, "num_layers": 4, "num_sparse_encoder_layers": 2, "num_experts": 3})
    encoder = [b for b in every(kinds(model, Encoder)[0]) if isinstance(b, Mlp)]
    assert [mlp.name for mlp in encoder] == ["mlp", "expert_0", "expert_1", "expert_2"] * 2
    assert model.active < model.parameters


def test_norms_are_t5s_own() -> None:
    assert {norm.formula for norm in kinds(build("t5", SMALL), Norm)} == {"t5"}
    assert not any(isinstance(b, Linear) and b.bias for b in every(build("t5", SMALL).body))
    assert {d.p for d in kinds(build("t5", {**SMALL, "dropout_rate": 0.25}), Dropout)} == {0.25}
