"""What may be set is checked, and everything wrong is said at once with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate, presets
from memcalc.errors import RunInvalid, UnknownName
from memcalc.optimizers import Parameter, resolve, state

if TYPE_CHECKING:
    from pathlib import Path


def faults(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(RunInvalid) as caught:
        resolve(spec)
    assert caught.value.exit_code == 3
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"name": "adamw", "amsgrd": True}, ["optimizer.amsgrd: ", "nearest: amsgrad"]),
        ({"name": "adamw", "amsgrad": 1}, ["optimizer.amsgrad: 1 is not true or false"]),
        ({"name": "adamw", "implementation": "fusd"}, ["optimizer.implementation: 'fusd'", "fused"]),
        ({"name": "adamw", "library": "torhc"}, ["optimizer.library: 'torhc'", "torch"]),
        ({"name": "adamw", "library": 3}, ["optimizer.library: "]),
        ({"name": "galore-adamw", "rank": 0}, ["optimizer.rank: 0 is not a whole number from 1"]),
        ({"name": "galore-adamw", "rank": 2.5}, ["optimizer.rank: 2.5"]),
        ({"name": "galore-adamw", "rank": "8"}, ["optimizer.rank: '8'"]),
        ({"name": "galore-adamw", "rank": True}, ["optimizer.rank: True"]),
        ({"name": "galore-adamw", "proj_type": "up"}, ["optimizer.proj_type: 'up'", "std, reverse_std, right, left"]),
        ({"name": "adamw-8bit", "optim_bits": 4}, ["optimizer.optim_bits: 4 is not one of 8, 32"]),
        ({"name": "adamw-8bit", "block_size": 0}, ["optimizer.block_size: 0"]),
        ({"name": "adamw-8bit", "min_8bit_size": -1}, ["optimizer.min_8bit_size: -1"]),
        ({"name": "sgd", "momentum": -0.1}, ["optimizer.momentum: -0.1"]),
        ({"name": "sgd", "momentum": float("nan")}, ["optimizer.momentum: nan"]),
        ({"name": "adafactor", "beta1": 2}, ["optimizer.beta1: 2 is not a number from 0 to 1"]),
        ({"name": "anyprecision-adamw", "momentum_dtype": "fp99"}, ["optimizer.momentum_dtype: 'fp99'"]),
        ({"name": "adamw", "bytes_per_parameter": -1}, ["optimizer.bytes_per_parameter: -1"]),
        ({"name": "adamw", "bytes_per_parameter": "two"}, ["optimizer.bytes_per_parameter: 'two'"]),
        ({"name": "adamw", "in_backward": "yes"}, ["optimizer.in_backward: 'yes'"]),
        ({"name": None}, ["optimizer.name: "]),
        ({"name": 7}, ["optimizer.name: "]),
    ],
)  # fmt: skip
def test_a_fault_says_where_and_what(spec: dict[str, Any], says: list[str]) -> None:
    (fault,) = faults(spec)
    for text in says:
        assert text in fault


def test_all_faults_come_at_once() -> None:
    found = faults({"name": "galore-adamw", "rank": -1, "foo": 1, "implementation": "warp", "bytes_per_parameter": "x"})
    assert [fault.partition(":")[0] for fault in found] == [
        "optimizer.implementation", "optimizer.bytes_per_parameter", "optimizer.rank", "optimizer.foo",
    ]  # fmt: skip


def test_a_mapping_of_an_unknown_optimizer() -> None:
    with pytest.raises(UnknownName):
        resolve({"name": "adamz9"})


@pytest.mark.parametrize(
    ("spec", "implementation"),
    [
        ({"name": "adamw", "fused": True}, "fused"),
        ({"name": "adamw", "foreach": True}, "foreach"),
        ({"name": "adamw", "foreach": False}, "for-loop"),
        ({"name": "adamw", "foreach": False, "fused": True}, "fused"),
        ({"name": "adamw", "fused": False}, "foreach"),
        ({"name": "adamw", "implementation": "for-loop"}, "for-loop"),
        ({"name": "adamw_torch_fused", "implementation": "foreach"}, "foreach"),
    ],
)
def test_the_implementation_by_name_or_as_torch_says_it(spec: dict[str, Any], implementation: str) -> None:
    assert resolve(spec).implementation == implementation


def test_training_hyperparameters_are_taken_and_change_nothing() -> None:
    spec = {"name": "adamw", "lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
    assert resolve(spec).states((3, 4), "bf16") == resolve("adamw").states((3, 4), "bf16")


def test_a_nominal_size_overrides_the_rules() -> None:
    found = resolve({"name": "adafactor", "bytes_per_parameter": 1.5})
    assert [t.bytes for t in found.states((1000, 1001), "fp16")] == [1501500]
    assert (found.shared(), found.group()) == ((), ())
    assert state(found, (3, 3), "fp32")["total_bytes"] == round(1.5 * 9)


@pytest.mark.parametrize(
    ("spec", "master"),
    [
        ("adamw", False),
        ("te-fused-adam", False),
        ({"name": "te-fused-adam", "master_weights": True}, True),
        ({"name": "apex-fused-adam", "master_weights": True}, True),
        ("megatron-distributed-optimizer", True),
    ],
)
def test_who_keeps_a_master_copy(spec: str | dict[str, Any], master: bool) -> None:
    assert resolve(spec).keeps_master is master


@pytest.mark.parametrize(
    ("spec", "freed"),
    [
        ("lomo", True),
        ("adamw", False),
        ({"name": "adamw", "in_backward": True}, True),
        ({"name": "adamw-cpu-offload", "offload_gradients": True}, True),
        ("adamw-cpu-offload", False),
    ],
)
def test_who_frees_gradients_early(spec: str | dict[str, Any], freed: bool) -> None:
    assert resolve(spec).frees_gradients is freed


def test_the_public_answer_has_the_documented_shape() -> None:
    answer = state("paged-adamw-8bit", (1000, 1000), "torch.bfloat16")
    assert answer["total_bytes"] == 2 * 1000 * 1000 + 2 * 4 * 3907
    assert answer["tensors"][0] == {
        "name": "state1", "dtype": "uint8", "shape": [1000, 1000], "bytes": 1_000_000, "device": "paged",
    }  # fmt: skip
    assert [tensor["device"] for tensor in answer["tensors"]] == ["paged", "paged", "gpu", "gpu"]
    assert sum(tensor["bytes"] for tensor in answer["shared"]) == 2048


@pytest.mark.parametrize(("shape", "dtype", "count"), [((1.5,), "bf16", 1), ((-1,), "bf17", 2), ((True,), "x", 2)])
def test_a_tensor_that_is_none(shape: tuple[Any, ...], dtype: str, count: int) -> None:
    with pytest.raises(RunInvalid) as caught:
        state("adamw", shape, dtype)
    assert len(caught.value.faults) == count


def test_what_a_library_refuses() -> None:
    assert not resolve("adamw-8bit").supports((4, 4), "fp64")
    assert resolve("adamw-8bit").supports((4, 4), "bf16")


def test_a_low_rank_optimizer_projects_its_target_modules_only() -> None:
    found = resolve({"name": "galore-adamw", "rank": 4, "target_modules": ["attn", "mlp"]})
    low, full = (
        found.states((64, 32), "bf16", "linear", "layers.0.mlp.up"),
        found.states((64, 32), "bf16", "linear", "head"),
    )
    assert [t.shape for t in low] == [(4, 32), (64, 4), (64, 4)]
    assert [t.shape for t in full] == [(64, 32), (64, 32)]
    assert len(resolve("galore-adamw").states((64, 32), "bf16", "embedding")) == 2


@pytest.mark.parametrize("name", ["galore-adamw", "galore-adamw-8bit", "galore-adafactor", "apollo", "apollo-mini"])
def test_a_low_rank_optimizer_projects_linears_and_no_other_modules(name: str) -> None:
    """transformers 5.23, trainer_optimizer.py: isinstance(module, nn.Linear), which GPT-2's Conv1D is not.

    A tied head goes by the name of the embedding, which is not among those of the linears.
    """
    found = resolve({"name": name, "rank": 4})
    kept = {role: found.states((64, 32), "bf16", role) for role in ("linear", "conv1d", "embedding")}
    assert kept["linear"][0].name == "projector.ortho_matrix"
    assert kept["conv1d"] == kept["embedding"]
    assert all(tensor.name != "projector.ortho_matrix" for tensor in kept["conv1d"])


@pytest.mark.parametrize(
    ("config", "tied", "states"),
    [
        ({"model_type": "llama", "intermediate_size": 176, "num_key_value_heads": 4}, True, 844288),
        ({"model_type": "llama", "intermediate_size": 176, "num_key_value_heads": 4}, False, 924672),
        ({"model_type": "gpt2", "n_positions": 64}, True, 1345536),
        ({"model_type": "gpt2", "n_positions": 64}, False, 1425920),
    ],
)
def test_what_galore_keeps_of_a_whole_model(config: dict[str, Any], *, tied: bool, states: int) -> None:
    """Measured: galore-torch 1.0 given the groups that transformers 5.23's Trainer makes for all-linear; fp32, rank 8."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000}
    model = {**config, **sizes, "tie_word_embeddings": tied}
    run = {"model": model, "precision": "fp32", "optimizer": {"name": "galore-adamw", "rank": 8}, "seq_len": 16}
    assert estimate(run).memory.components.optimizer_states == states


def test_a_model_sets_the_options_that_stand_for_its_dimensions() -> None:
    name = "layers.0.self_attn.q_proj.weight"
    model = {"hidden_size": 4096, "num_attention_heads": 32}
    found = resolve("adam-mini").for_model(model)
    assert [t.shape for t in found.states((4096, 4096), "bf16", "linear", name)] == [(32, 524288), (32, 1)]
    given = resolve({"name": "adam-mini", "n_heads": 16}).for_model(model)
    assert [t.shape for t in given.states((4096, 4096), "bf16", "linear", name)] == [(16, 1048576), (16, 1)]
    assert resolve("adamw").for_model(model) is resolve("adamw")


def test_an_optimizer_is_added_by_one_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "ours.yaml").write_text(
        "library: ours\noptions: {blocks: 64}\nstates: [m, {name: scale, dtype: fp32, shape: {per_block: blocks}}]\n"
        "step: {for-loop: {each: [update]}}\nadvice: {best_for: tests}\nsource: this test\n"
    )
    monkeypatch.setattr(presets, "folder", lambda: tmp_path)
    monkeypatch.setattr(presets, "index", dict)
    found = resolve({"name": "ours", "blocks": 32})
    assert [(t.name, t.bytes) for t in found.states((10, 10), "bf16")] == [("m", 200), ("scale", 16)]
    assert found.step_peak([(Parameter((10, 10), "bf16"), 2)]) == 200


def test_betas_say_the_first_beta_too() -> None:
    assert [t.name for t in resolve({"name": "prodigy", "betas": [0, 0.999]}).states((3,), "fp32")] == [
        "s",
        "p0",
        "exp_avg_sq",
    ]
    assert resolve({"name": "prodigy", "betas": [0, 0.999], "beta1": 0.9}).options["beta1"] == 0.9


def test_one_and_true_are_told_apart_however_often_asked() -> None:
    assert resolve({"name": "adamw", "amsgrad": True}).options["amsgrad"] is True
    assert len(faults({"name": "adamw", "amsgrad": 1})) == 1


def test_values_that_json_lacks_are_faults_too() -> None:
    assert len(faults({"name": "adamw", "amsgrad": object()})) == 1
