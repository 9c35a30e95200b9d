"""The law of stacks: the answer with like layers recorded once is that with every layer recorded."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.tape.hf import alike

EAGER, FULL = {"attention": "eager"}, {"checkpointing": "full"}
ALL = {"lora": {"rank": 8, "targets": "all-linear"}}
SECOND = {"checkpointing": {"mode": "full", "every": 2}}
FSDP: dict[str, Any] = {"gpus": 4, "sharding": "fsdp"}
FSDP1: dict[str, Any] = {"gpus": 4, "sharding": {"strategy": "fsdp", "version": 1}}
HEADS: dict[str, Any] = {"gpus": 4, "sharding": {"strategy": "fsdp", "wrap": "layers+embed+head"}}
ZERO: dict[str, Any] = {"gpus": 4, "sharding": "zero3"}

RUNS: dict[str, list[dict[str, Any]]] = {
    # the weights that the first layer returns were saved by nobody, and go when the second has returned
    "gpt-neo-125m": [{"train": ["*.mlp.*"]}, {"train": ["*.mlp.*"], **FSDP}, {"train": ["*.5.mlp.*"]}, {}],
    "bloom-560m": [{"train": ["*.mlp.*"]}, {"train": [r"\.[4-9]\."], **ZERO}],
    # casts that all passes share, but the first, which goes back no further, has saved none
    "albert-base-v2": [{"lora": {"rank": 8, "targets": ["query"], "layers": [0]}, "precision": "bf16-autocast"}],
    # what a layer puts out stays if the next one learns of it
    "deberta-v3-large-encoder": [{"train": ["*.[13579].*"]}],
    # some layers read images: gradients of their states first meet in the last but one of these
    "llama-3.2-11b-vision": [{}, ALL, {"train": ["*.mlp.*"]}, {"freeze": ["*vision*"], **FULL}],
    "instructblip-vicuna-7b": [{"precision": "amp-bf16", **ALL}, EAGER],
    # some layers read rotary tables or masks: these go in the first of them
    "qwen3-next-80b-a3b": [{"freeze": ["*.0.*"]}, {}, FSDP],
    "gemma-2-2b": [{"seq_len": 4500}, {"lora": 8, "seq_len": 4500, **EAGER}, {"seq_len": 4500, **FSDP1}],
    "gemma-3-4b-text": [{"train": ["*gate*"], **SECOND, **FSDP}, {"train": ["*.[13579].*"]}, FULL],
    "gpt-oss-20b": [{"precision": "bf16"}, {"freeze": ["*.0.*", "*.3.*"]}],
    # what a denoiser's layer hands to the next beside the stream
    "mochi-1-preview": [{}, {"train": ["*attn*"], **FULL}],
    "dit-xl-2": [{"train": ["*.3.*"], "freeze": ["*.mlp.*"]}, {"freeze": ["*.3.*", "*q_proj*"], **FULL}],
    # what is given to layers is there once, however often a checkpoint runs them
    "deepseek-moe-16b": [{"checkpointing": {"mode": "full", "offload": True}}, {"freeze": ["*.[02468].*"], **FULL}],
    # kept outputs keep what kernels have put beside the graph, of every layer
    "wan-2.1-t2v-1.3b": [{"keep_outputs": True, "quantize": "int8", **ALL}],
    "llama-3.2-1b": [{"keep_outputs": True, "quantize": "int8", **ALL}, {**ALL, **HEADS}],
    # layers of stages, some of which learn
    "resnet-50": [{"freeze": ["*.[02468].*"], **FSDP}, {"train": ["*.1.*"]}],
    "swin-base": [{"train": ["*.1.*"]}, {"freeze": ["*.1.*"], **ZERO}],
    # an adapter on the head is in the head's unit, tied or not
    "vit-large-patch16-224": [{**ALL, **HEADS}],
    "gemma-3-1b": [{"lora": {"rank": 4, "targets": ["k_proj", "lm_head"]}, **HEADS}],
}
CASES = [(model, run) for model, runs in RUNS.items() for run in runs]


@pytest.mark.parametrize(("model", "run"), CASES, ids=str)
def test_like_layers_stand_for_each_other(model: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": model, "seq_len": 64, **run}
    forget()
    few = estimate(asked).memory
    forget()
    monkeypatch.setattr(alike, "sampled", lambda kinds, **_: (list(range(len(kinds))), list(range(len(kinds)))))
    every = estimate(asked).memory
    forget()
    assert few.phases == every.phases
    assert (few.at_peak, few.components) == (every.at_peak, every.components)


def test_what_goes_far_from_the_layer_that_made_it_goes_once() -> None:
    """Gradients of the images' states go five layers on, by records of several kinds: none before it is there."""
    learn = {"train": ["*.[13579].*"], "freeze": ["*self_attn.q_proj*", "*.mlp.*"]}
    memory = estimate({"model": "llama-3.2-11b-vision", "seq_len": 64, **learn, **SECOND, **FSDP}).memory
    assert memory.reserved >= memory.peak_allocated


def test_a_layer_singled_out_leaves_its_like_to_another() -> None:
    samples, order = [0, 1, 2, 5], [0, 1, 2, 1, 2, 3]
    alike.single_out(samples, order, 1)
    assert (samples, order) == ([0, 1, 2, 3, 5], [0, 1, 2, 3, 2, 4])
    alike.single_out(samples, order, 5)
    alike.single_out(samples, order, 6)  # behind the last
    assert (samples, order) == ([0, 1, 2, 3, 5], [0, 1, 2, 3, 2, 4])
