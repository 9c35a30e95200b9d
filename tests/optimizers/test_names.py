"""Every name people use finds its preset, with the options the name stands for."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import presets
from memcalc.errors import UnknownName
from memcalc.optimizers import resolve

# transformers 5.23, training_args.py OptimizerNames and trainer_optimizer.py: id, library, options that differ
TRAINER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adamw_torch": ("adamw", "torch", {}),
    "adamw_torch_fused": ("adamw", "torch", {}),
    "adamw_torch_xla": ("adamw", "torch", {}),
    "adamw_torch_npu_fused": ("adamw", "torch", {}),
    "adafactor": ("adafactor", "transformers", {"beta1": None}),
    "adamw_anyprecision": ("anyprecision-adamw", "torchdistx", {"momentum_dtype": "fp32", "variance_dtype": "fp32"}),
    "adamw_torch_4bit": ("adamw-4bit", "torchao", {"block_size": 256}),
    "adamw_torch_8bit": ("adamw-8bit-torchao", "torchao", {"block_size": 256}),
    "ademamix": ("ademamix", "bitsandbytes", {"optim_bits": 32}),
    "sgd": ("sgd", "torch", {"momentum": 0.0}),
    "adagrad": ("adagrad", "torch", {}),
    "adamw_bnb_8bit": ("adamw-8bit", "bitsandbytes", {"optim_bits": 8, "embeddings_in_32bit": True}),
    "adamw_8bit": ("adamw-8bit", "bitsandbytes", {"optim_bits": 8, "embeddings_in_32bit": True}),
    "ademamix_8bit": ("ademamix-8bit", "bitsandbytes", {"optim_bits": 8, "embeddings_in_32bit": True}),
    "lion_8bit": ("lion-8bit", "bitsandbytes", {"optim_bits": 8, "embeddings_in_32bit": True}),
    "lion_32bit": ("lion-32bit", "bitsandbytes", {"optim_bits": 32}),
    "paged_adamw_32bit": ("paged-adamw-32bit", "bitsandbytes", {"optim_bits": 32, "is_paged": True}),
    "paged_adamw_8bit": ("paged-adamw-8bit", "bitsandbytes", {"is_paged": True, "embeddings_in_32bit": True}),
    "paged_ademamix_32bit": ("paged-ademamix-32bit", "bitsandbytes", {"optim_bits": 32, "is_paged": True}),
    "paged_ademamix_8bit": ("paged-ademamix-8bit", "bitsandbytes", {"is_paged": True, "embeddings_in_32bit": True}),
    "paged_lion_32bit": ("paged-lion-32bit", "bitsandbytes", {"optim_bits": 32, "is_paged": True}),
    "paged_lion_8bit": ("paged-lion-8bit", "bitsandbytes", {"is_paged": True, "embeddings_in_32bit": True}),
    "rmsprop": ("rmsprop", "torch", {"momentum": 0.0, "centered": False}),
    "rmsprop_bnb": ("rmsprop-bnb", "bitsandbytes", {"optim_bits": 32}),
    "rmsprop_bnb_8bit": ("rmsprop-8bit", "bitsandbytes", {"optim_bits": 8, "embeddings_in_32bit": True}),
    "rmsprop_bnb_32bit": ("rmsprop-bnb", "bitsandbytes", {"optim_bits": 32}),
    "galore_adamw": ("galore-adamw", "galore-torch", {"rank": 128}),
    "galore_adamw_8bit": ("galore-adamw-8bit", "galore-torch", {"rank": 128}),
    "galore_adafactor": ("galore-adafactor", "galore-torch", {"rank": 128}),
    "galore_adamw_layerwise": ("galore-adamw", "galore-torch", {"rank": 128, "in_backward": True}),
    "galore_adamw_8bit_layerwise": ("galore-adamw-8bit", "galore-torch", {"in_backward": True}),
    "galore_adafactor_layerwise": ("galore-adafactor", "galore-torch", {"in_backward": True}),
    "lomo": ("lomo", "lomo-optim", {}),
    "adalomo": ("adalomo", "lomo-optim", {}),
    "grokadamw": ("grokadamw", "grokadamw", {}),
    "schedule_free_radam": ("schedule-free-radam", "schedulefree", {}),
    "schedule_free_adamw": ("schedule-free-adamw", "schedulefree", {}),
    "schedule_free_sgd": ("schedule-free-sgd", "schedulefree", {}),
    "apollo_adamw": ("apollo", "apollo-torch", {"rank": 128}),
    "apollo_adamw_layerwise": ("apollo", "apollo-torch", {"rank": 128, "in_backward": True}),
    "stable_adamw": ("stable-adamw", "torch-optimi", {"kahan_sum": None}),
}
FREED_EARLY = {"lomo", "adalomo", *(name for name in TRAINER if name.endswith("_layerwise"))}
CLASS_PATHS = {
    "torch.optim.SGD": "sgd", "torch.optim.AdamW": "adamw", "torch.optim.adam.Adam": "adam", "torch.optim.Muon": "muon",
    "bitsandbytes.optim.AdamW8bit": "adamw-8bit", "bnb.optim.PagedAdamW8bit": "paged-adamw-8bit",
    "bitsandbytes.optim.adamw.AdamW8bit": "adamw-8bit", "bitsandbytes.optim.AdamW": "adamw-32bit",
    "transformers.Adafactor": "adafactor", "deepspeed.ops.adam.FusedAdam": "deepspeed-fused-adam",
    "deepspeed.ops.adam.DeepSpeedCPUAdam": "deepspeed-cpu-adam", "apex.optimizers.FusedAdam": "apex-fused-adam",
    "transformer_engine.pytorch.optimizers.FusedAdam": "te-fused-adam", "lion_pytorch.Lion": "lion",
    "torchao.optim.AdamW4bit": "adamw-4bit", "torchao.optim.CPUOffloadOptimizer": "adamw-cpu-offload",
    "prodigyopt.Prodigy": "prodigy", "schedulefree.AdamWScheduleFree": "schedule-free-adamw",
}  # fmt: skip
SPOKEN = {
    "adamw8bit": "adamw-8bit", "AdamW-8bit": "adamw-8bit", "adamw 8bit": "adamw-8bit", "ADAMW": "adamw", "8bit-adam": "adamw-8bit",
    "sgdm": "sgd-momentum", "amsgrad": "adam-amsgrad", "galore": "galore-adamw", "paged-adamw8bit": "paged-adamw-8bit",
    "adam_mini": "adam-mini", "schedulefree-adamw": "schedule-free-adamw", "onebitadam": "deepspeed-onebit-adam",
}  # fmt: skip


def test_all_names_of_the_trainer_are_here() -> None:
    assert len(TRAINER) == 41


@pytest.mark.parametrize("name", TRAINER)
def test_a_trainer_name_finds_its_optimizer(name: str) -> None:
    preset, library, options = TRAINER[name]
    found = resolve(name)
    assert (found.name, found.library) == (preset, library)
    assert {key: found.options[key] for key in options} == options
    assert found.frees_gradients == (name in FREED_EARLY)


@pytest.mark.parametrize(("name", "fused"), [("adamw_torch", "foreach"), ("adamw_torch_fused", "fused")])
def test_a_trainer_name_chooses_the_implementation(name: str, fused: str) -> None:
    assert resolve(name).implementation == fused


@pytest.mark.parametrize(("path", "preset"), (CLASS_PATHS | SPOKEN).items())
def test_class_paths_and_spoken_names(path: str, preset: str) -> None:
    assert resolve(path).name == preset


def test_the_trainer_keeps_embeddings_in_32_bit_and_the_library_does_not() -> None:
    embedding = ((1000, 64), "bf16", "embedding")
    assert sum(t.bytes for t in resolve("adamw_bnb_8bit").states(*embedding)) == 1000 * 64 * 8
    assert sum(t.bytes for t in resolve("adamw-8bit").states(*embedding)) == 1000 * 64 * 2 + 2 * 4 * 250


@pytest.mark.parametrize("name", ["adamw_9bit", "", "nonsense", "torch.optim.Nothing", "a.b.c", "../adamw", "x" * 300])
def test_an_unknown_name_says_so(name: str) -> None:
    with pytest.raises(UnknownName):
        resolve(name)


@pytest.mark.parametrize(
    ("spoken", "preset", "implementation"),
    [("8bitadamw", "adamw-8bit", "kernel"), ("8-bit AdamW", "adamw-8bit", "kernel"), ("AdamW (8bit)", "adamw-8bit", "kernel"),
     ("paged 8bit AdamW", "paged-adamw-8bit", "kernel"), ("fused AdamW", "adamw", "fused"), ("adamw_fused", "adamw", "fused"),
     ("SGD foreach", "sgd", "foreach"), ("sgd fused", "sgd", "fused"), ("1bitadam", "deepspeed-onebit-adam", "for-loop"),
     ("FusedLAMB", "apex-fused-lamb", "kernel"), ("4bit adamw", "adamw-4bit", "compiled")],
)  # fmt: skip
def test_words_in_any_order(spoken: str, preset: str, implementation: str) -> None:
    found = resolve(spoken)
    assert (found.name, found.implementation) == (preset, implementation)


@pytest.mark.parametrize("name", ["AdamW(lr=1e-4, fused=True)", "fused", "8bit", "adam8", "foreach fused"])
def test_words_that_name_no_optimizer(name: str) -> None:
    with pytest.raises(UnknownName, match="unknown optimizer"):
        resolve(name)


def test_an_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(UnknownName, match="adamw") as caught:
        resolve("adamww")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", presets.names("optimizers"))
def test_every_preset_and_alias_resolves(name: str) -> None:
    card = presets.find("optimizers", name)
    for alias in (name, *card.get("aliases", ())):
        assert resolve(str(alias)).name == name or "library" in (card["aliases"][alias] or {})
    for library in card.get("variants", {}):
        assert resolve({"name": name, "library": library}).library == library
