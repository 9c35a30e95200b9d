"""Companions: what reference, reward, value and teacher models and moving averages add to a step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid, UnknownName
from memcalc.resolve import resolve
from memcalc.run.validation import parse_run
from memcalc.simulation import simulate
from memcalc.tape.inference import record_forward

if TYPE_CHECKING:
    from memcalc.report import Memory, Report

B, S, V = 2, 512, 8000
LLAMA = {"model_type": "llama", "vocab_size": V, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4,
         "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": V, "n_embd": 512, "n_layer": 4, "n_head": 8, "n_positions": 1024}
WEIGHTS = 39_986_176  # of LLAMA in bf16
HEAD = 2 * V * 512


def report(companions: object = (), **more: Any) -> Report:
    run = {"model": LLAMA, "precision": "bf16", "optimizer": "adamw", "batch_size": B, "seq_len": S}
    return estimate({**run, "companions": companions, **more})


def memory(companions: object = (), **more: Any) -> Memory:
    return report(companions, **more).memory


# torch 2.13, transformers 5.23: model.eval(), torch.no_grad(), log_softmax of each row and its labels; fake tensors
RECORDED = [
    (LLAMA, "bf16", "sdpa", 64_576_512, 39_999_488),
    (LLAMA, "bf16", "eager", 90_462_208, 39_999_488),
    (LLAMA, "amp-bf16", "sdpa", 129_135_616, 79_985_664),
    (GPT2, "bf16", "sdpa", 59_051_008, 34_473_984),
]


@pytest.mark.parametrize(("model", "precision", "attention", "peak", "after"), RECORDED)
def test_a_frozen_forward_pass_as_recorded(
    model: dict[str, Any], precision: str, attention: str, peak: int, after: int
) -> None:
    run = {"model": model, "precision": precision, "attention": attention, "batch_size": B, "seq_len": S}
    ((_, own),) = resolve(parse_run({**run, "companions": "reference"})).companions
    step = simulate(own, record_forward, evaluating=True)
    assert step is not None
    assert step.phases["forward"] == pytest.approx(peak, rel=1e-4)
    assert step.after_forward == after


def test_a_reference_is_weights_alone_where_its_forward_pass_is_not_the_peak() -> None:
    plain, held = memory(), memory("reference")
    assert held.components.weights - plain.components.weights == WEIGHTS
    assert held.components.gradients == plain.components.gradients
    assert held.components.optimizer_states == plain.components.optimizer_states
    scores = 4 * B * S
    assert held.peak_allocated - plain.peak_allocated == pytest.approx(WEIGHTS + scores, abs=2**14)


def test_a_moving_average_does_not_run() -> None:
    assert memory("ema").peak_allocated - memory().peak_allocated == WEIGHTS


def test_reward_and_value_models_have_a_score_for_a_head() -> None:
    for role in ("reward", "value"):
        assert memory(role).components.weights - memory().components.weights == WEIGHTS - HEAD + 2 * 512


def test_a_teachers_logits_stay() -> None:
    more = memory("teacher").components.activations - memory("reference").components.activations
    assert more == pytest.approx(2 * B * S * V, abs=2**13)


def test_a_model_that_learns_has_all_a_model_has() -> None:
    value = memory({"role": "value", "trainable": True})
    plain, held = memory(), memory("value")
    own = WEIGHTS - HEAD + 2 * 512
    assert value.components.gradients - plain.components.gradients == own
    assert value.components.optimizer_states - plain.components.optimizer_states == 2 * own
    assert value.components.activations > held.components.activations + 30 * 2 * B * S * 512
    assert value.phases.optimizer - held.phases.optimizer >= 3 * own


T5 = {"model_type": "t5", "vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
      "num_heads": 8}  # fmt: skip
T5_ENCODER = 35_330_816  # the published 60,506,624 of t5-small without its decoder's 25,175,808
VAE = 83_653_863  # published, of encoder and decoder


def test_of_an_encoder_decoder_only_the_encoder_is_there() -> None:
    """What it makes stays in bf16 until the step is over: B rows of S tokens of 512."""
    plain, held = memory(), memory({"role": "encoder", "model": T5})
    assert held.components.weights - plain.components.weights == 2 * T5_ENCODER
    assert held.peak_allocated - plain.peak_allocated == pytest.approx(2 * T5_ENCODER + 2 * B * S * 512, rel=1e-3)


def test_an_autoencoder_is_there_whole_and_runs_as_far_as_its_latents() -> None:
    """With the images of the run: a map of its widest level before it is halved, 128 x 512 x 512 in fp32, in each half."""
    found = [
        report({"role": role, "model": "sd-vae", "dtype": "fp32", "forward": True}, model="sd-1.5-unet", batch_size=1,
               seq_len=None, image_size=512, train=["conv_out*"])
        for role in ("encoder", "ema")
    ]  # fmt: skip
    encoder, whole = (one.memory for one in found)
    assert encoder.components.weights == whole.components.weights == 2 * 859_520_964 + 4 * VAE
    assert encoder.phases.forward - encoder.components.weights > 2 * 4 * 128 * 512 * 512


def test_an_encoder_is_another_model() -> None:
    with pytest.raises(RunInvalid, match="say which"):
        report("encoder")


def test_a_text_longer_than_an_encoders_positions_is_cut_to_them() -> None:
    short = {**GPT2, "n_positions": 64, "architectures": ["GPT2Model"]}
    full = memory({"role": "encoder", "model": short}).components.activations - memory().components.activations
    assert full == pytest.approx(2 * B * 64 * 512, abs=2**12)


def test_a_large_companion_may_be_the_peak_of_the_forward_pass() -> None:
    wide = {**LLAMA, "hidden_size": 4096, "intermediate_size": 65_536, "num_hidden_layers": 1}
    run = {"model": {**LLAMA, "num_hidden_layers": 1}, "train": ["norm"]}
    found = memory({"role": "reference", "model": wide}, **run)
    assert found.peak_phase == "forward"
    assert found.at_peak.temporary > 2 * 2 * B * S * 65_536


@pytest.mark.parametrize(
    "companions",
    ["ema", ["reference", "reward"], {"role": "value", "trainable": True}, [{"role": "value", "trainable": True}] * 2],
)
@pytest.mark.parametrize("more", [{}, {"checkpointing": "full"}, {"optimizer": "sgd"}, {"grad_accum": 4}])
def test_what_the_peak_is_made_of_adds_up(companions: object, more: dict[str, Any]) -> None:
    found = memory(companions, **more)
    assert sum(vars(found.at_peak).values()) == found.peak_allocated == max(vars(found.phases).values())
    assert min(vars(found.at_peak).values()) >= 0
    assert found.reserved >= found.peak_allocated
    assert max(found.curve.samples) <= found.peak_allocated


def test_a_shared_reference_has_no_weights_of_its_own() -> None:
    run = {"lora": {"rank": 8}, "loss": "log-softmax"}
    plain, off = memory(**run), memory({"role": "reference", "shared": True}, **run)
    assert off.persistent == plain.persistent
    assert off.phases.forward - plain.phases.forward > 4 * B * S * V  # its logits in fp32, over the model's own
    assert "with the model's own weights, adapters switched off" in _told(
        report({"role": "reference", "shared": True}, **run)
    )


@pytest.mark.parametrize(
    ("companion", "run"),
    [
        ({"role": "reference", "shared": True}, {}),
        ({"role": "reference", "shared": True, "model": "qwen2.5-0.5b"}, {"lora": 8}),
        ({"role": "value", "shared": True, "trainable": True}, {"lora": 8}),
        ({"role": "reward", "shared": True}, {"lora": 8}),
        ({"role": "ema", "shared": True}, {"lora": 8}),
        ({"role": "reference", "shared": True, "forward": False}, {"lora": 8}),
    ],
)
def test_only_adapters_can_be_switched_off(companion: dict[str, Any], run: dict[str, Any]) -> None:
    with pytest.raises(RunInvalid, match=r"companions\.0\.shared"):
        report(companion, **run)


@pytest.mark.parametrize("own", [{"dtype": "fp32"}, {"quantize": "nf4"}])
def test_what_is_shared_is_kept_as_the_model_is(own: dict[str, Any]) -> None:
    with pytest.raises(RunInvalid, match=rf"companions\.0\.{next(iter(own))}"):
        report({"role": "reference", "shared": True, **own}, lora=8)


@pytest.mark.parametrize(
    "own", [{"role": "ema"}, {"role": "reference", "forward": False}, {"role": "value", "trainable": True}]
)
def test_an_order_is_of_those_that_run_by_themselves(own: dict[str, Any]) -> None:
    found = report({**own, "after": True})
    assert [(note.code, note.path) for note in found.warnings] == [("no-effect", "companions.0.after")]


def test_an_encoder_runs_before_the_model() -> None:
    with pytest.raises(RunInvalid, match="runs before it"):
        report({"role": "encoder", "model": "bert-base-uncased", "after": True})


@pytest.mark.parametrize("role", ["reference", "reward"])
def test_what_runs_after_the_model_runs_over_what_that_keeps(role: str) -> None:
    wide = {**LLAMA, "intermediate_size": 65_536, "num_hidden_layers": 1}
    before, after = (
        memory({"role": role, "model": wide, "after": after}, checkpointing="none").phases.forward
        for after in (False, True)
    )
    kept = memory().components.activations
    assert after - before == pytest.approx(kept, rel=0.05)


def test_what_shards_parameters_shards_a_reference_too() -> None:
    more = [
        memory("reference", gpus=8, sharding=name).components.weights - memory(gpus=8, sharding=name).components.weights
        for name in ("zero2", "zero3")
    ]
    assert more[0] == WEIGHTS
    assert more[1] == pytest.approx(WEIGHTS / 8, rel=0.01)
    assert "shared out like the model's, over 8" in _told(report("reference", gpus=8, sharding="zero3"))


def test_a_dtype_of_its_own() -> None:
    wide = memory({"role": "reference", "dtype": "fp32"}).components.weights
    assert wide - memory().components.weights == 2 * WEIGHTS


def test_with_adapters_the_copy_is_of_the_base_and_never_quantised() -> None:
    run = {"lora": {"rank": 8}, "quantize": "nf4"}
    assert memory("reference", **run).components.weights - memory(**run).components.weights == WEIGHTS


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"pipeline": 2}])
def test_each_rank_has_its_part_of_a_copy(parallel: dict[str, int]) -> None:
    run: dict[str, Any] = {"gpus": 4, "parallel": parallel, "implementation": "megatron", "grad_accum": 4}
    plain, held = memory(**run), memory("reference", **run)
    assert held.components.weights == 2 * plain.components.weights
    with pytest.raises(RunInvalid, match="only the model again"):
        report({"role": "reward", "model": "qwen2.5-0.5b"}, **run)


def test_how_it_is_counted_is_said() -> None:
    assert _told(report("reference")) == (
        "reference: the model again, in bf16; frozen, run without a graph over what the model keeps for its backward pass: "
        "one log-probability of each token stays"
    )


def _told(found: Report) -> str:
    return next(note.message for note in found.assumptions if note.path == "companions.0")


def test_a_companion_of_only_a_size_is_held() -> None:
    found = report({"role": "reference", "model": "7b"})
    assert found.memory.components.weights == WEIGHTS + 14_000_000_000
    assert "activations-not-included" in [note.code for note in found.warnings]


def test_a_model_that_does_not_exist() -> None:
    with pytest.raises(UnknownName):
        report({"role": "reference", "model": "llama-17-7b"})
    with pytest.raises(RunInvalid, match=r"companions\.0\.role"):
        report("referee")


def test_whole_logits_are_kept_only_when_asked_for() -> None:
    ((_, own),) = resolve(
        parse_run({"model": LLAMA, "precision": "bf16", "seq_len": S, "companions": "teacher"})
    ).companions
    kept = [simulate(own, partial(record_forward, whole=whole), evaluating=True) for whole in (True, False)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0].activations - kept[1].activations == 2 * S * V - 4 * S


def test_adapters_of_a_text_encoder_learn_beside_those_of_its_denoiser() -> None:
    """CLIP's 12 layers with four projections of 768 each, rank 4 (diffusers, train_dreambooth_lora_sdxl.py)."""
    run = {"model": "sd-1.5-unet", "precision": "bf16-autocast", "lora": {"rank": 4, "dtype": "bf16"}}
    encoder = {"role": "encoder", "model": "clip-text-encoder-l"}
    held, learning = (
        estimate({**run, "companions": {**encoder, **more}}).memory.components
        for more in ({}, {"lora": {"rank": 4, "dtype": "bf16"}})
    )
    added = 12 * 4 * 2 * 4 * 768 * 2
    assert learning.weights - held.weights == added
    assert learning.gradients - held.gradients == added
    assert learning.optimizer_states - held.optimizer_states == 2 * added
    assert learning.activations > held.activations
    told = estimate({**run, "companions": {**encoder, "lora": 4}}).assumptions
    assert any("it learns by its adapters" in note.message for note in told if note.path == "companions.0")
    assert any("diffusers' script" in note.message for note in told if note.path == "companions.0.lora")


def test_what_can_t_be_adapted_of_a_companion_is_refused_with_its_place() -> None:
    with pytest.raises(RunInvalid, match=r"companions\.0\.lora\.targets: target modules qq not found"):
        report({"role": "encoder", "model": "clip-text-encoder-l", "lora": {"targets": ["qq"]}})


def test_a_text_encoder_may_be_packed() -> None:
    """T5's encoder in NF4: what its layers read and write last (wo) stays, as transformers keeps it (_keep_in_fp32_modules)."""
    run = {"model": "sana-1.6b", "precision": "bf16-autocast", "checkpointing": "full", "lora": 16}
    encoder = {"role": "encoder", "model": "t5-v1.1-xxl-encoder"}
    whole, packed = (estimate({**run, "companions": {**encoder, **more}}) for more in ({}, {"quantize": "nf4"}))
    alone = estimate(run).memory.components.weights
    heavy = 24 * 4096 * (4 * 4096 + 2 * 10240)
    saved = 2 * heavy - heavy // 2 - heavy // 64 * 4
    assert whole.memory.components.weights - alone == pytest.approx(2 * 4_762_310_656, rel=1e-6)
    assert whole.memory.components.weights - packed.memory.components.weights == pytest.approx(saved, rel=1e-4)
    assert "encoder: t5-v1.1-xxl-encoder, in nf4" in _told(packed)
    with pytest.raises(RunInvalid, match=r"companions\.0\.quantize: quantised weights can't be trained"):
        report({**encoder, "quantize": "nf4", "trainable": True})
