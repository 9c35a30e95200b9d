"""The parts of decoders: what a config's keys decide of the blocks, beyond their tensors."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.architectures.decoder import activation, head_dim, interleaved, kv_heads, layer_kinds, rotary_dim
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Parallel, Residual, Stack
from memcalc.blocks.basic import Dropout, Embedding, Linear, Scale, Softcap
from memcalc.dimensions import Dimensions

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}


def read(**given: Any) -> Dimensions:
    return Dimensions({**SMALL, **given})


def below(block: Block, kind: type[Block]) -> list[Any]:
    """Every block of a kind below a block, layers one by one."""
    parts = block.layers if isinstance(block, Stack) else block.parts()
    return [*([block] if isinstance(block, kind) else []), *(found for part in parts for found in below(part, kind))]


def attentions(model_type: str, **given: Any) -> list[Attention]:
    return below(build(model_type, {**SMALL, **given}).body, Attention)


def test_heads_are_derived_where_the_config_does_not_say() -> None:
    assert (head_dim(read()), kv_heads(read())) == (16, 4)
    assert (head_dim(read(head_dim=24)), kv_heads(read(num_key_value_heads=2))) == (24, 2)
    assert (head_dim(read(head_dim=None)), kv_heads(read(num_key_value_heads=None))) == (16, 4)


@pytest.mark.parametrize(
    ("given", "rotated"),
    [
        ({}, 16),
        ({"partial_rotary_factor": 0.5}, 8),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, 4),
        ({"rope_scaling": {"partial_rotary_factor": 0.25}, "partial_rotary_factor": 0.5}, 4),
        ({"rope_scaling": {"factor": 8.0}, "partial_rotary_factor": 0.5}, 8),
    ],
)
def test_how_much_of_a_head_rotates(given: dict[str, Any], rotated: int) -> None:
    assert rotary_dim(read(**given)) == rotated


def test_the_activation_has_several_keys() -> None:
    assert activation(read(hidden_act="gelu")) == "gelu"
    assert activation(read(hidden_activation="gelu_pytorch_tanh")) == "gelu_pytorch_tanh"
    assert activation(read(activation_function="relu")) == "relu"
    assert activation(read()) == "silu"


def test_layer_types_come_before_the_default() -> None:
    assert layer_kinds(read(num_hidden_layers=3), str) == ["0", "1", "2"]
    assert layer_kinds(read(num_hidden_layers=2, layer_types=["a", "b", "c"]), str) == ["a", "b"]


def test_each_kind_of_layer_is_made_once() -> None:
    made: list[str] = []

    def make(kind: str) -> Linear:
        made.append(kind)
        return Linear(kind, 2, 2)

    layers = interleaved("layers", ["a", "b", "a", "b"], make).layers
    assert made == ["a", "b"]
    assert layers[0] is layers[2]


WINDOWS = [
    ("llama", {}, [0, 0, 0, 0]),
    ("mistral", {"sliding_window": 16}, [16] * 4),
    ("mistral", {"sliding_window": None}, [0] * 4),
    ("qwen2", {"sliding_window": 16}, [0] * 4),  # use_sliding_window is false unless given
    ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}, [0, 0, 16, 16]),
    ("gemma2", {"sliding_window": 16}, [16, 0, 16, 0]),
    ("gemma3_text", {"sliding_window": 16, "sliding_window_pattern": 2}, [16, 0, 16, 0]),
    ("gemma3_text", {"sliding_window": 16, "use_bidirectional_attention": True}, [9] * 4),
    ("cohere2", {"sliding_window": 16}, [16, 16, 16, 0]),
    ("olmo3", {"sliding_window": 16}, [16, 16, 16, 0]),
    ("cwm", {"sliding_window": 16}, [0, 16, 16, 16]),
    ("gpt_neo", {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]}, [0, 256, 0, 256]),
    ("phi3", {"sliding_window": 16}, [16] * 4),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "given", "windows"), WINDOWS)
def test_which_layers_see_a_window(model_type: str, given: dict[str, Any], windows: list[int]) -> None:
    kept = {k: v for k, v in given.items() if k not in ("num_layers", "num_heads")}
    assert [
        a.window for a in attentions(model_type, **kept, **{k: given[k] for k in given if k not in kept})
    ] == windows


ROTATED = [
    ("llama", {}, [16] * 4),
    ("smollm3", {}, [16, 16, 16, 0]),
    ("smollm3", {"no_rope_layers": [0, 1, 0, 1]}, [0, 16, 0, 16]),
    ("cohere2", {}, [16, 16, 16, 0]),
    ("phi", {}, [8] * 4),
    ("glm", {"head_dim": 16}, [8] * 4),
    ("stablelm", {}, [4] * 4),
    ("gpt_neox", {}, [4] * 4),
    ("gpt_neox", {"rotary_pct": 1.0}, [16] * 4),
    ("gpt2", {}, [0] * 4),
    ("opt", {"ffn_dim": 96}, [0] * 4),
    ("falcon", {}, [16] * 4),
    ("falcon", {"alibi": True}, [0] * 4),
    ("nemotron", {}, [8] * 4),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "given", "rotated"), ROTATED)
def test_which_layers_rotate_how_much(model_type: str, given: dict[str, Any], rotated: list[int]) -> None:
    assert [a.rotary_dim for a in attentions(model_type, **given)] == rotated


def test_branches_side_by_side_and_in_a_row() -> None:
    shapes = {t: build(t, SMALL).body for t in ("gptj", "gpt_neox", "falcon", "phi", "cohere", "llama", "stablelm")}
    counts = {t: (len(below(body, Parallel)), len(below(body, Residual))) for t, body in shapes.items()}
    in_a_row, in_place = ("llama", "stablelm"), ("falcon",)  # FalconDecoderLayer sums its branches, then adds the input
    assert counts == {t: (0, 8) if t in in_a_row else (0, 4) if t in in_place else (4, 0) for t in shapes}
    (first, *_) = below(shapes["gptj"], Parallel)
    assert first.norm is not None
    assert below(shapes["gpt_neox"], Parallel)[0].norm is None


def test_dropouts_stand_only_where_they_drop() -> None:
    assert [d.p for d in below(build("gpt2", {**SMALL, "resid_pdrop": 0.0}).body, Dropout)] == [0.1]
    assert len(below(build("gpt2", SMALL).body, Dropout)) == 1 + 4
    assert [a.out_dropout for a in attentions("gpt2")] == [0.1] * 4  # inside its attention
    assert below(build("llama", SMALL).body, Dropout) == []


def test_scores_and_logits_are_capped_where_the_config_says() -> None:
    body = build("gemma2", SMALL).body
    assert [s.cap for s in below(body, Softcap)] == [30.0]
    assert {a.softcap for a in below(body, Attention)} == {50.0}
    assert below(build("gemma2", {**SMALL, "final_logit_softcapping": None}).body, Softcap) == []


def test_what_is_scaled() -> None:
    assert below(build("gemma", SMALL).body, Embedding)[0].scaled
    assert len(below(build("granite", SMALL).body, Scale)) == 1 + 2 * 4 + 1
    assert len(below(build("cohere", SMALL).body, Scale)) == 1


def test_the_context_is_what_positions_allow() -> None:
    assert build("gpt2", {"n_positions": 77}).context == 77
    assert build("mpt", {"max_seq_len": 33, "d_model": 64, "n_heads": 4}).context == 33
    assert build("bloom", SMALL).context == 0
