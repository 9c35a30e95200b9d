from __future__ import annotations

import pytest

from memcalc import estimate
from memcalc.adapters.targets import library_choice
from memcalc.errors import RunInvalid
from tests.adapters.reference import adapted


@pytest.mark.parametrize(
    ("method", "model_type", "targets"),
    [
        ("lora", "llama", ("q_proj", "v_proj")),
        ("dora", "gpt2", ("c_attn",)),
        ("lokr", "gpt_neox", ("query_key_value",)),
        ("vera", "phi", ("q_proj", "v_proj")),
        ("lora", "phi", ("q_proj", "v_proj", "fc1", "fc2")),
        ("adalora", "t5", ("q", "k", "v", "o", "wi", "wo")),
        ("ia3", "bert", ("key", "value", "output.dense")),
        ("ln-tuning", "qwen3", ("post_attention_layernorm",)),
        ("lora", "gemma4", r".*language_model\..*\.(q_proj|v_proj)"),
        ("lora", "made_up", None),
    ],
)
def test_the_library_s_choice(method: str, model_type: str, targets: tuple[str, ...] | str | None) -> None:
    assert library_choice(method, "targets", model_type) == targets


@pytest.mark.parametrize(
    ("model", "words", "where", "said"),
    [
        ("llama", {"targets": ["q_prog"]}, "lora.targets", "q_prog not found in the base model; nearest: q_proj"),
        ("llama", {"targets": "q_proj"}, "lora.targets", "a text is a regular expression for whole names"),
        ("llama", {"targets": "(q_proj"}, "lora.targets", "is not a regular expression"),
        ("llama", {"targets": "([a-z._0-9]+)+!"}, "lora.targets", "repeats a repetition"),
        ("llama", {"targets": ["self_attn"]}, "lora.targets", "target what is inside: k_proj, o_proj, q_proj, v_proj"),
        ("llama", {"targets": ["q_proj", "norm"]}, "lora.targets", "model.norm (norm) is not supported"),
        ("llama", {"targets": ["q_proj"], "layers": [1, 7]}, "lora.layers", "7: the targets are in layers 0 to 2"),
        ("llama", {"targets": "all-linear", "layers": [1]}, "lora.layers", "list the names"),
        ("llama", {"targets": ["q_proj"], "rank_pattern": {"(": 4}}, "lora.rank_pattern", "not a regular expression"),
        (
            "gpt_oss",
            {},
            "lora.targets",
            "name the modules ([q_proj, k_proj, v_proj, o_proj]) or all of them: --set lora.targets=all-linear",
        ),
        ("gpt2", {"method": "loha"}, "lora.targets", "loha adapts only linear, conv modules"),
        ("mamba", {"targets": ["out_proj"]}, "lora.targets", "out_proj can't be adapted in mamba"),
        ("mixtral", {"targets": ["q_proj", "w1"]}, "lora.targets", "w1 can't be adapted without w3"),
        ("mixtral", {"targets": ["q_proj"], "parameters": ["gate_up"]}, "lora.parameters", "nearest: gate_up_proj"),
        ("llama", {"token_indices": [250]}, "lora.token_indices", "250 is no row of model.embed_tokens, which has 250"),
        ("llama", {"token_indices": {"wte": [1]}}, "lora.token_indices", "wte not found"),
        ("llama", {"method": "ln-tuning", "targets": ["ln_f"]}, "lora.targets", "ln_f not found"),
        ("llama", {"targets": ["embed_tokens"], "lora_bias": True}, "lora.lora_bias", "embeddings"),
        ("llama", {"method": "ia3", "targets": ["k_proj"], "bias": "all"}, "lora.bias", "ia3 trains no biases"),
        ("llama", {"method": "oft", "rank": 4, "block_size": 16}, "lora.block_size", "not both"),
        ("llama", {"dora": True, "lora_bias": True}, "lora.lora_bias", "DoRA"),
        ("llama", {"layers_pattern": "h"}, "lora.layers_pattern", "needs `layers`"),
    ],
)
def test_what_can_t_be_is_refused_with_its_place(model: str, words: dict[str, object], where: str, said: str) -> None:
    with pytest.raises(RunInvalid) as refusal:
        adapted(model, words)
    assert [fault.where for fault in refusal.value.faults] == [where]
    assert said in refusal.value.faults[0].what


def test_modules_without_a_name_are_told_with_the_one_they_are_in() -> None:
    with pytest.raises(RunInvalid, match=r"nearest: projection, query, key, value, dense, layers\.0, layers\.2$"):
        estimate({"model": "yolos-tiny", "lora": {"targets": ["zzz"]}})


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ({"targets": ["q_proj", "nothing"]}, "no module is named nothing"),
        ({"save_modules": ["heads"]}, "no module is named heads"),
        ({"method": "adalora", "rank": 4}, "ignores `rank`"),
        ({"method": "prefix", "dtype": "bf16"}, "fp32"),
    ],
)
def test_what_is_likely_not_meant_is_warned_of(words: dict[str, object], warning: str) -> None:
    (told,) = adapted("llama", words).warnings
    assert warning in told


def test_a_choice_that_peft_loses_is_counted_and_told() -> None:
    made = adapted("mixtral", {})
    assert {site.module.rpartition(".")[2] for site in made.sites} == {"q_proj", "v_proj"}
    assert "loses its own choice of targets for mixtral" in made.warnings[0]


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3", "olmoe-1b-7b"])
def test_experts_without_a_choice_of_peft_are_said_to_have_none(model: str) -> None:
    """TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING (peft, utils/constants.py) has none of these types."""
    with pytest.raises(RunInvalid, match=r"no default targets of lora for .*; name the modules"):
        estimate({"model": model, "lora": 8})


def test_dropout_on_parameters_is_warned_of() -> None:
    (told,) = adapted("mixtral", {"targets": ["w2"], "dropout": 0.1}).warnings
    assert "dropout: 0" in told


@pytest.mark.parametrize(
    ("model", "trainable"),
    [
        ("sdxl-unet", 23224320),
        ("sd3-medium", 9388032),
        ("flux.1-dev", 44826624),
        ("flux.2-klein-4b", 16711680),
        ("sana-1.6b", 8601600),
        ("qwen-image", 23592960),
        ("z-image-turbo", 16711680),
        ("cogvideox-2b", 7372800),
        ("hidream-i1-full", 15728640),
        ("lumina-image-2.0", 5160960),
    ],
)
def test_a_denoiser_s_targets_are_those_of_the_scripts_that_train_it(model: str, trainable: int) -> None:
    """add_adapter(LoraConfig(r=16, target_modules=…)) with the targets of diffusers' scripts (diffusers 0.42, peft 0.21)."""
    report = estimate({"model": model, "precision": "bf16", "lora": 16})
    assert report.model.trainable == trainable
    assert any("diffusers' script" in note.message for note in report.assumptions)


def test_a_denoiser_without_a_script_is_told_the_names_of_its_attention() -> None:
    with pytest.raises(RunInvalid, match=r"no default targets of lora for .*\(\[to_q, to_k, to_v, to_out\.0\]\)"):
        estimate({"model": "wan-2.1-t2v-1.3b", "lora": 8})
    with pytest.raises(RunInvalid, match="no default targets of vera for UNet2DConditionModel"):
        estimate({"model": "sdxl-unet", "lora": {"method": "vera"}})


def test_parameters_that_are_not_there_are_told_where_others_are() -> None:
    """peft adapts what it finds: under all-linear it looks for a router's `gate.weight`, which HunYuan's is not called."""
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "num_experts": 4, "moe_topk": 2, "moe_intermediate_size": 32, "vocab_size": 128}  # fmt: skip
    model = {"model_type": "hunyuan_v1_moe", "num_shared_expert": 1, **tiny}
    whole = estimate({"model": model, "lora": {"rank": 4, "targets": "all-linear"}})
    assert whole.model.trainable == 30752  # peft 0.21.2, print_trainable_parameters
    named = {"rank": 4, "targets": ["q_proj"], "parameters": ["experts.down_proj", "nosuch.weight"]}
    told = [note.message for note in estimate({"model": model, "lora": named}).warnings]
    assert told == ["parameters: no parameter is named nosuch.weight; peft adapts only the others"]
