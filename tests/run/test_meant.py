"""Values as people and other tools write them: each is read as what it means, or refused."""

from __future__ import annotations

from typing import Any

import pytest

import memcalc
from memcalc.errors import RunInvalid, UnknownName
from memcalc.run import Run, Sharding
from memcalc.run.asking import question_of
from memcalc.run.validation import parse_run
from memcalc.run.varying import varied

MEANT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"seq_len": "8k"}, {"seq_len": 8192}),
    ({"seq_len": "128K tokens"}, {"seq_len": 131_072}),
    ({"target_len": "0.5k"}, {"target_len": 512}),
    ({"seq_len": "8,192"}, {"seq_len": 8192}),
    ({"batch_size": "1 024"}, {"batch_size": 1024}),
    ({"gpus": "8x"}, {"gpus": 8}),
    ({"gpu": "8xH100"}, {"gpu": "H100", "gpus": 8}),
    ({"gpu": "8 x A100 80GB", "gpus": 8}, {"gpu": "A100 80GB", "gpus": 8}),
    ({"gpu": "h100:4"}, {"gpu": "h100", "gpus": 4}),
    ({"gpu": "RTX 4090 x2"}, {"gpu": "RTX 4090", "gpus": 2}),
    ({"gpu": "rtx 4090"}, {"gpu": "rtx 4090", "gpus": 1}),  # the x of a name is no sign for times
    ({"gpu": "mi300x"}, {"gpu": "mi300x", "gpus": 1}),
    ({"attention": "flash_attention_2"}, {"attention": "flash"}),
    ({"attention": "FA3"}, {"attention": "flash"}),
    ({"implementation": "Liger-Kernel"}, {"implementation": "hf-liger"}),
    ({"offload": "params+optimizer"}, {"offload": "optimizer+params"}),
    ({"sharding": "FULL_SHARD"}, {"sharding": Sharding(strategy="fsdp")}),
    ({"sharding": "SHARD_GRAD_OP"}, {"sharding": Sharding(strategy="fsdp", options={"reshard_after_forward": False})}),
    ({"sharding": "fsdp1"}, {"sharding": Sharding(strategy="fsdp", options={"version": 1})}),
    ({"sharding": {"strategy": "FSDP2", "reduce_dtype": "fp32"}},
     {"sharding": Sharding(strategy="fsdp", options={"version": 2, "reduce_dtype": "fp32"})}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), MEANT)
def test_what_means_one_thing_is_read_so(written: dict[str, Any], meant: dict[str, Any]) -> None:
    run = parse_run({"model": "gpt2", **written})
    assert {key: getattr(run, key) for key in meant} == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [({"batch_size": "8k"}, "not a whole number"), ({"seq_len": "8 kB"}, "not a whole number"),
     ({"seq_len": "1.0001k"}, "not a whole number"), ({"batch_size": "8,19"}, "not a whole number"),
     ({"attention": "xformers"}, "is not known"), ({"gpu": "8xh100", "gpus": 4}, "says 8 GPUs, and gpus says 4")],
)  # fmt: skip
def test_what_means_nothing_for_certain_is_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(RunInvalid, match=message):
        parse_run({"model": "gpt2", **written})


def test_a_reading_is_an_assumption_and_what_was_said_is_none() -> None:
    said = {"model": "gpt2", "seq_len": "1k", "optimizer": "adamw", "batch_size": 1}
    notes = [(note.path, note.message) for note in memcalc.estimate(said).assumptions]
    assert ("seq_len", "1k is read as 1024 tokens, in units of 1024") in notes
    assert not {"optimizer", "batch_size"} & {path for path, _ in notes}
    assert {"optimizer", "batch_size"} <= {note.path for note in memcalc.estimate({"model": "gpt2"}).assumptions}


def test_a_flag_with_a_number_of_gpus_wins_over_a_file() -> None:
    told = [("model", "gpt2"), ("gpus", 4)]
    assert question_of(None, [*told[:1], ("gpu", "8xh100")]).run.gpus == 8
    with pytest.raises(RunInvalid, match="says 8 GPUs"):
        question_of(None, [*told, ("gpu", "8xh100")])


def test_a_sweep_takes_the_number_too() -> None:
    made = varied(Run(model="gpt2"), "gpu", "8xh100")
    assert (made.gpu, made.gpus) == ("h100", 8)


@pytest.mark.parametrize(
    ("written", "preset"),
    [("llama3.1:8b", "llama-3.1-8b"), ("gpt-2", "gpt2"), ("vit-b/16", "vit-base-patch16-224"), ("Qwen 3 8B", "qwen3-8b"),
     ("qwen-2.5-7B-Instruct", "qwen2.5-7b"), ("mixtral8x7b", "mixtral-8x7b"), ("phi4mini", "phi-4-mini"),
     ("Florence 2 base", "florence-2-base")],
)  # fmt: skip
def test_models_in_other_spellings(written: str, preset: str) -> None:
    report = memcalc.estimate({"model": written})
    assert report.model.name == preset
    assert any(note.path == "model" and "is read as" in note.message for note in report.assumptions)


@pytest.mark.parametrize(
    ("written", "preset"),
    [("sd1.5", "sd-1.5-unet"), ("pony-diffusion-v6-xl", "sdxl-unet"), ("biobert", "bert-base-cased"),
     ("microsoft/DialoGPT-medium", "gpt2-medium"), ("vivit", "vivit-b-16x2-kinetics400"), ("flux.1", "flux.1-dev")],
)  # fmt: skip
def test_models_as_people_call_them(written: str, preset: str) -> None:
    assert memcalc.estimate({"model": written}).model.name == preset


def test_digits_are_not_joined() -> None:
    with pytest.raises(UnknownName, match="unknown model"):  # not Llama 3.1 8B
        memcalc.estimate({"model": "llama-318b"})
