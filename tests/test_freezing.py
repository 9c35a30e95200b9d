"""What learns: patterns of `train` and `freeze`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid
from memcalc.freezing import learning, unmatched
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from memcalc.report import Report

LLAMA = {"model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12,
         "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
TENSORS = (
    Tensor("model.embed_tokens.weight", (100, 8)),
    Tensor("model.layers.{0..31}.self_attn.q_proj.weight", (8, 8), 32),
    Tensor("model.layers.{0..31}.input_layernorm.weight", (8,), 32),
    Tensor("model.rotary.inv_freq", (4,), buffer=True),
    Tensor("lm_head.weight", (100, 8)),
)
TIED = (
    Tensor("model.embed_tokens.weight", (100, 8)),
    Tensor("lm_head.weight", (100, 8), tied_to="model.embed_tokens.weight"),
)


def learned(*, train: tuple[str, ...] = (), freeze: tuple[str, ...] = ()) -> dict[str, int]:
    return {t.name: t.count for t in learning(TENSORS, train, freeze) if t.trainable and not t.buffer}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("lm_head", {"lm_head.weight": 1}),
        ("lm_head.weight", {"lm_head.weight": 1}),
        ("head", {}),
        ("*norm*", {"model.layers.{0..31}.input_layernorm.weight": 32}),
        ("self_attn", {"model.layers.{0..31}.self_attn.q_proj.weight": 32}),
        ("layers.1.self_attn", {"model.layers.1.self_attn.q_proj.weight": 1}),
        ("layers.3?.self_attn", {"model.layers.{30,31}.self_attn.q_proj.weight": 2}),
        (r"layers\.(29|3[0-9])\..*norm", {"model.layers.{29..31}.input_layernorm.weight": 3}),
        ("^lm_head.weight$", {"lm_head.weight": 1}),
        ("^embed", {}),
    ],
)
def test_what_a_pattern_means(pattern: str, names: dict[str, int]) -> None:
    found = learned(train=(pattern,))
    assert {name.replace("{30..31}", "{30,31}"): count for name, count in found.items()} == names


def test_freeze_takes_from_what_train_names() -> None:
    assert learned(train=("self_attn", "lm_head"), freeze=("lm_head",)) == {
        "model.layers.{0..31}.self_attn.q_proj.weight": 32
    }
    assert sum(learned(freeze=(r"layers\.[0-9]\.",)).values()) == 2 * 22 + 2


def test_elements_and_buffers_stay_what_they_are() -> None:
    before = sum(t.count * t.elements for t in TENSORS)
    found = learning(TENSORS, ("layers.1?",), ("*norm*",))
    assert sum(t.count * t.elements for t in found) == before
    assert [t for t in found if t.buffer] == [TENSORS[3]]


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    ((where, message),) = unmatched(TENSORS, ("lm_heed", "self_attn"), ())
    assert where == "train.0"
    assert "lm_head" in message


def test_a_tied_tensor_is_frozen_under_its_first_name() -> None:
    assert dict(unmatched(TIED, (), ("lm_head",))) == {
        "freeze.0": "lm_head.weight is tied to model.embed_tokens.weight: they are one parameter, of that name"
    }


def report(**more: Any) -> Report:
    return estimate({"model": LLAMA, "precision": "bf16", "seq_len": 128, **more})


def test_frozen_tensors_have_weights_alone() -> None:
    whole, part = report().memory.components, report(train=["layers.1?"]).memory.components
    layers = 2 * 2 * (4 * 512 * 512 + 3 * 512 * 1408 + 2 * 512)
    assert part.weights == whole.weights
    assert part.gradients == layers
    assert part.optimizer_states == 2 * layers
    assert part.activations < whole.activations / 2


def test_what_lies_below_the_lowest_that_learns_keeps_nothing() -> None:
    above, below = (report(train=[f"layers.{i}.mlp.down_proj", "lm_head"]).memory.components for i in (11, 0))
    assert above.gradients == below.gradients
    assert above.activations < below.activations / 2


def test_checkpointed_embeddings_ask_for_a_gradient_though_frozen() -> None:
    """transformers' gradient_checkpointing_enable hooks them: every layer's input is kept, and twice as much by the last norm."""
    kept = [
        report(train=["lm_head"], checkpointing=mode, seq_len=2048).memory.components.activations
        for mode in ("full", "none")
    ]
    assert kept[0] - kept[1] == pytest.approx((12 + 2) * 2 * 2048 * 512, rel=0.03)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"train": ["lm_hed"]}, "train.0: no tensor is named like 'lm_hed'; the nearest: .*lm_head"),
        ({"freeze": ["*"]}, "freeze: no tensor is left that learns"),
        ({"train": ["(q_proj"]}, "train.0: .* is no regular expression"),
        ({"train": ["(a+)+$"]}, "train.0: .* repeats a repetition"),
        ({"train": ["x" * 2000]}, "train.0: .* too long"),
    ],
)
def test_what_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(RunInvalid, match=told):
        report(**asked)


def test_a_pattern_that_matches_nothing_beside_others_is_a_warning() -> None:
    assert [note.path for note in report(train=["lm_head", "lm_heed"]).warnings] == ["train.1"]


def test_with_adapters_the_base_is_frozen_anyway() -> None:
    plain, asked = report(lora={"rank": 8}), report(lora={"rank": 8}, train=["lm_head"])
    assert asked.model.trainable == plain.model.trainable
    assert [note.code for note in asked.warnings] == ["adapters-alone"]


def test_a_pattern_may_be_of_another_rank_of_a_pipeline() -> None:
    """The head is on the last stage alone: the first has nothing to freeze."""
    frozen = report(freeze=["lm_head"], gpus=2, parallel={"pipeline": 2}, grad_accum=2)
    assert frozen.model.trainable == report(freeze=["lm_head"]).model.trainable


def test_frozen_tensors_are_kept_in_a_dtype_of_their_own_where_the_run_says_so() -> None:
    """A UNet in fp16 beside a ControlNet that trains in fp32 (diffusers, examples/controlnet/train_controlnet.py)."""
    whole = report(precision="amp-fp16", freeze=["model.layers.*"])
    lower = report(precision={"recipe": "amp-fp16", "frozen": "fp16"}, freeze=["model.layers.*"])
    layers = 12 * (4 * 512 * 512 + 3 * 512 * 1408 + 2 * 512)
    assert whole.memory.components.weights - lower.memory.components.weights == 2 * layers


def test_a_frozen_encoder_before_a_part_that_is_not_followed_runs_forward() -> None:
    """SAM's decoder of masks on a frozen image encoder: recorded at its peak, in the encoder's scores, 3,864,664,576 bytes."""
    report = estimate({"model": {"model_type": "sam", "architectures": ["SamModel"]}, "batch_size": 2, "precision": "fp32",
                       "optimizer": "adamw", "freeze": ["vision_encoder.*", "prompt_encoder.*"]})  # fmt: skip
    assert report.memory.peak_phase == "forward"
    assert report.memory.peak_allocated == pytest.approx(3_864_664_576, rel=0.005)
    assert [warning.code for warning in report.warnings] == ["part-not-followed"]
