"""BART and its kin: where norms stand, what positions are, what is shared."""

from __future__ import annotations

import pytest

from memcalc.architectures import build
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Residual
from memcalc.blocks.basic import Embedding, Norm
from memcalc.blocks.mlp import Mlp, Moe
from memcalc.blocks.seq2seq import Decoder, Encoder, LogitsBias, Shared, Sinusoids
from memcalc.blocks.sparse import LocalGlobalAttention
from tests.architectures.walk import every, kinds

SMALL = {
    "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 30, "decoder_ffn_dim": 36, "vocab_size": 97, "max_position_embeddings": 20,
}  # fmt: skip
POST = ["Residual", "Attention", "Norm", "Residual", "Mlp", "Norm"]
PRE = ["Residual", "Norm", "Attention", "Residual", "Norm", "Mlp"]

ENCODERS = [
    ("bart", ["Norm", *POST]),
    ("plbart", ["Norm", *POST]),
    ("mbart", ["Norm", *PRE, "Norm"]),
    ("pegasus", [*PRE, "Norm"]),
    ("marian", POST),
    ("m2m_100", [*PRE, "Norm"]),
    ("blenderbot", [*PRE, "Norm"]),
    ("blenderbot-small", ["Norm", *POST]),
    ("bigbird_pegasus", [*PRE, "Norm"]),
]


@pytest.mark.parametrize(("model_type", "wanted"), ENCODERS)
def test_where_the_norms_stand(model_type: str, wanted: list[str]) -> None:
    encoder = kinds(build(model_type, SMALL), Encoder)[0]
    assert [type(b).__name__ for b in every(encoder) if isinstance(b, (Residual, Norm, Attention, Mlp))] == wanted


POSITIONS = [
    ("bart", 22, True),
    ("blenderbot", 20, True),
    ("pegasus", 20, False),
    ("marian", 20, False),
]


@pytest.mark.parametrize(("model_type", "rows", "trained"), POSITIONS)
def test_tables_of_positions(model_type: str, rows: int, trained: bool) -> None:
    tables = [b for b in kinds(build(model_type, SMALL), Embedding) if b.name == "embed_positions"]
    assert [(table.rows, table.trainable) for table in tables] == [(rows, trained)] * 2


def test_m2m_100_makes_its_positions_on_the_way() -> None:
    model = build("m2m_100", SMALL)
    assert len(kinds(model, Sinusoids)) == 2
    assert not kinds(model, LogitsBias)


def test_one_table_is_read_under_three_names() -> None:
    model = build("bart", SMALL)
    assert len(kinds(model, Shared)) == 1
    tied = {tensor.name for tensor in model.tensors if tensor.tied_to == "model.shared.weight"}
    assert tied == {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"}


def test_the_decoder_alone_has_no_encoder() -> None:
    model = build("bart", {**SMALL, "architectures": ["BartForCausalLM"]})
    assert not kinds(model, Encoder)
    assert [(b.causal, b.cross) for b in kinds(model, Attention)] == [(True, False), (False, True)]


def test_each_half_has_heads_and_widths_of_its_own() -> None:
    model = build("bart", SMALL)
    found = [([b.heads for b in every(half) if isinstance(b, Attention)], [b.width for b in every(half) if isinstance(b, Mlp)])
             for half in (*kinds(model, Encoder), *kinds(model, Decoder))]  # fmt: skip
    assert found == [([3], [30]), ([4, 4], [36])]


def test_leds_encoder_reads_windows_and_more_positions_than_its_decoder() -> None:
    model = build("led", {**SMALL, "max_encoder_position_embeddings": 40, "max_decoder_position_embeddings": 12})
    assert [b.window for b in kinds(model, LocalGlobalAttention)] == [512]
    assert [b.rows for b in kinds(model, Embedding) if b.name == "embed_positions"] == [40, 12]
    assert model.context == 40


def test_nllb_moe_sends_a_token_to_two_experts_in_every_other_layer() -> None:
    config = {**SMALL, "encoder_layers": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 0, "num_experts": 5}
    model = build("nllb-moe", config)
    assert [(moe.top_k, len(moe.experts.parts() if moe.experts else ())) for moe in kinds(model, Moe)] == [(2, 5)] * 2
    expert = 24 * 30 + 30 + 30 * 24 + 24
    assert model.parameters - model.active == 2 * 3 * expert
