"""What the class named in a config.json puts on top of a decoder."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.errors import RunInvalid

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}

# (config, kind, [name and shape of what stands on the base]); shapes as in transformers' Generic… heads
HEADS: list[tuple[dict[str, Any], str, list[tuple[str, tuple[int, ...]]]]] = [
    ({}, "causal-lm", [("lm_head.weight", (100, 64))]),
    ({"architectures": None}, "causal-lm", [("lm_head.weight", (100, 64))]),
    ({"architectures": ["Qwen2Model"]}, "encoder", []),
    ({"architectures": ["Qwen2ForSequenceClassification"]}, "classifier", [("score.weight", (2, 64))]),
    ({"architectures": ["Qwen2ForSequenceClassification"], "num_labels": 1}, "classifier", [("score.weight", (1, 64))]),
    (
        {"architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}},
        "classifier", [("score.weight", (3, 64))],
    ),
    (
        {"architectures": ["Qwen2ForTokenClassification"], "num_labels": 5},
        "classifier", [("score.weight", (5, 64)), ("score.bias", (5,))],
    ),
    (
        {"architectures": ["Qwen2ForQuestionAnswering"]},
        "classifier", [("qa_outputs.weight", (2, 64)), ("qa_outputs.bias", (2,))],
    ),
    (
        {"architectures": ["Qwen2ForRewardModel"]}, "classifier",
        [("score.0.weight", (64, 64)), ("score.0.bias", (64,)), ("score.2.weight", (1, 64)), ("score.2.bias", (1,))],
    ),
    (
        {"architectures": ["Qwen2ForProcessRewardModel"]}, "classifier",
        [("score.0.weight", (64, 64)), ("score.0.bias", (64,)), ("score.2.weight", (2, 64)), ("score.2.bias", (2,))],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "on_top"), HEADS)
def test_the_class_decides_the_head(
    given: dict[str, Any], kind: str, on_top: list[tuple[str, tuple[int, ...]]]
) -> None:
    model = build("qwen2", {**SMALL, **given})
    assert model.kind == kind
    tops = [(t.name, t.shape) for t in model.tensors if t.name.startswith(("lm_head", "score", "qa_outputs"))]
    assert tops == on_top


def test_the_base_alone_has_no_prefix_and_question_answering_its_own() -> None:
    first = {a: build("qwen2", {**SMALL, "architectures": [f"Qwen2{a}"]}).tensors[0].name for a in HEADED}
    assert first == HEADED


HEADED = {"Model": "embed_tokens.weight", "ForQuestionAnswering": "transformer.embed_tokens.weight"}


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_takes_no_memory_of_its_own(tied: bool) -> None:
    model = build("qwen2", {**SMALL, "tie_word_embeddings": tied})
    (head,) = (t for t in model.tensors if t.name == "lm_head.weight")
    assert head.tied_to == ("model.embed_tokens.weight" if tied else "")
    assert head.parameters == (0 if tied else 6400)


@pytest.mark.parametrize(
    ("model_type", "given", "says"),
    [
        (
            "llama",
            {"hidden_size": 100, "num_attention_heads": 7},
            r"\(100\) is not a multiple of the number of attention heads \(7\)",
        ),
        ("gpt2", {"n_embd": 100, "n_head": 7}, "not a multiple"),
        ("opt", {"hidden_size": 100, "num_attention_heads": 7}, "not a multiple"),
        (
            "llama",
            {"num_attention_heads": 32, "num_key_value_heads": 5},
            "32 query heads can't share 5 key/value heads",
        ),
        ("qwen3", {"num_attention_heads": 32, "num_key_value_heads": 12}, "can't share 12"),
    ],
)
def test_heads_that_do_not_divide_are_refused(model_type: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(RunInvalid, match=says):
        build(model_type, given)


def test_a_class_that_rounds_its_heads_is_taken_at_its_word() -> None:
    """Qwen2Config has no such check: a head is hidden_size // num_attention_heads wide."""
    sizes = {"hidden_size": 100, "num_attention_heads": 7, "num_key_value_heads": 7, "num_hidden_layers": 1}
    assert {t.name: t.shape for t in build("qwen2", sizes).tensors}["model.layers.0.self_attn.q_proj.weight"] == (
        98,
        100,
    )
