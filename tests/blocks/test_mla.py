"""Attention through a latent: what runs in which order, and the tensors its modules hold themselves."""

from __future__ import annotations

from memcalc.blocks.basic import Linear, Norm
from memcalc.blocks.mla import CompressedAttention, Compressor, Indexer, Mla
from memcalc.tensors import tensors


def test_a_head_is_what_is_rotated_and_what_is_not() -> None:
    assert Mla("attn", nope=128, rope=64).head_dim == 192


def test_queries_run_first_and_the_indexer_before_the_output() -> None:
    block = Mla(
        "attn", q_a=Linear("q_a", 8, 4), q_norm=Norm("q_norm", 4), q_b=Linear("q_b", 4, 6), kv_a=Linear("kv_a", 8, 5),
        kv_norm=Norm("kv_norm", 3), kv_b=Linear("kv_b", 3, 8), indexer=Indexer("indexer"), out=Linear("out", 4, 8),
    )  # fmt: skip
    assert [part.name for part in block.parts()] == [
        "q_a",
        "q_norm",
        "q_b",
        "kv_a",
        "kv_norm",
        "kv_b",
        "indexer",
        "out",
    ]


def test_overlapping_windows_read_twice_the_channels() -> None:
    plain, wide = Compressor("c", rate=4, head_dim=8), Compressor("c", rate=4, head_dim=8, overlapping=True)
    assert [t.shape for t in tensors(plain)] == [(4, 8)]
    assert [t.shape for t in tensors(wide)] == [(4, 16)]


def test_compressed_attention_has_a_sink_for_every_head() -> None:
    assert [(t.name, t.shape) for t in tensors(CompressedAttention("attn", heads=6))] == [("attn.sinks", (6,))]
