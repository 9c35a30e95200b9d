"""Values as people and other tools write them, where they mean one thing: 8k tokens, 8xH100, flash_attention_2, FULL_SHARD."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcalc.errors import fault, shorten
from memcalc.notes import Remark

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNTS = ("batch_size", "seq_len", "target_len", "grad_accum", "gpus")
LENGTHS = ("seq_len", "target_len")  # where 8k is 8192: lengths of sequences are powers of two

# key: our word -> the words for it elsewhere, in small letters and digits alone
SAME: dict[str, dict[str, str]] = {
    "attention": {
        "flash": "fa fa2 fa3 flash2 flash3 flashattn flashattn2 flashattn3 flashattention flashattention2 flashattention3 "
        "kernelscommunityflashattn2 kernelscommunityflashattn3",
        "sdpa": "sdp torchsdpa pytorchsdpa scaleddotproductattention",
    },
    "implementation": {
        "hf": "transformers huggingface",
        "hf-liger": "liger ligerkernel",
        "megatron": "megatronlm megatroncore mcore",
    },
    "offload": {
        "optimizer": "optim optimizerstate optimizerstates",
        "optimizer+params": "optimizerparam optimizerparams optimizerparameters paramsoptimizer paramoptimizer",
        "activations": "activation",
    },
    "loss": {"standard": "ce crossentropy", "fused-linear": "fusedlinearcrossentropy flce"},
}
# how FSDP calls its strategies (torch.distributed.fsdp.ShardingStrategy), and the versions of it: ours, with options
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "fsdp1": ("fsdp", {"version": 1}),
    "fsdp2": ("fsdp", {"version": 2}),
    "fullyshard": ("fsdp", {"version": 2}),
    "fullshard": ("fsdp", {}),
    "shardgradop": ("fsdp", {"reshard_after_forward": False}),
    "hybridshard": ("hsdp", {}),
    "noshard": ("ddp", {}),
    "distributeddataparallel": ("ddp", {}),
}

_MEANT = {key: {word: own for own, words in table.items() for word in words.split()} for key, table in SAME.items()}
_KILO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*k(?:\s*(?:tok|tokens?))?", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"[0-9]{1,3}(?:[,' ][0-9]{3})+", re.ASCII)
_TIMES = re.compile(r"x\s*([0-9]+)|([0-9]+)\s*x", re.ASCII | re.IGNORECASE)
# 8xH100, 8 x A100 80GB; h100:8 (SkyPilot), H100 x8, h100*8
_SEVERAL = re.compile(
    r"(?P<before>[0-9]{1,5})\s*[x*×]\s*(?P<first>\S.*)|(?P<second>\S.*?)(?:\s+[x×]\s*|\s*[:*]\s*)(?P<after>[0-9]{1,5})",  # noqa: RUF001 - a sign for times
    re.ASCII | re.IGNORECASE,
)


def plain(word: str) -> str:
    """The small letters and digits of a word."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def word(key: str, written: str) -> str:
    """The word of a run file for what is written under a key; what is not known stays as it is."""
    return _MEANT[key].get(plain(written), written)


def count(key: str, written: str) -> object:
    """The number that `8k` (tokens), `8,192` or `8x` (GPUs) stands for; anything else as it is."""
    text = written.strip()
    if _GROUPED.fullmatch(text):
        return int(re.sub("[,' ]", "", text))
    if key in LENGTHS and (kilo := _KILO.fullmatch(text)):
        tokens = float(kilo[1]) * 1024
        return int(tokens) if tokens.is_integer() else written
    if key == "gpus" and (times := _TIMES.fullmatch(text)):
        return int(times[1] or times[2])
    return written


def several(gpu: object) -> tuple[str, int] | None:
    """The name and the number of `8xH100` or `h100:8`; None of one GPU's name."""
    found = _SEVERAL.fullmatch(gpu.strip()) if isinstance(gpu, str) else None
    if found is None:
        return None
    return (found["first"] or found["second"]).strip(), int(found["before"] or found["after"])


def apart(run: dict[str, Any]) -> dict[str, Any]:
    """The run with the number in `gpu: 8xH100` under `gpus`; RunInvalid where that says another."""
    found = several(run.get("gpu"))
    if found is None:
        return run
    name, number = found
    said = run.get("gpus", number)
    if str(said) != str(number):
        raise fault("gpu", f"{shorten(str(run['gpu']))!r} says {number} GPUs, and gpus says {shorten(str(said))}")
    return {**run, "gpu": name, "gpus": number}


def readings(given: Mapping[str, Any]) -> tuple[Remark, ...]:
    """What is to be said of values that were read as what is likely meant."""
    return tuple(
        Remark("read-as", key, f"{written.strip()} is read as {tokens} tokens, in units of 1024")
        for key in LENGTHS
        if isinstance(written := given.get(key), str) and _KILO.fullmatch(written.strip())
        for tokens in [count(key, written)]
    )
