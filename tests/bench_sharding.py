"""What sharding adds to `estimate()`, in numbers: `python tests/bench_sharding.py`. Nothing here passes or fails.

CPU milliseconds of a run under a strategy, asked for the first time, over those of the same run on one GPU without any
(transformers' modules), the best of several turns of both in turn. One row a strategy, one column a model; a cell shows the
largest factor over VARIANTS of a run, which `--each` prints one by one. Words select strategies, `--models a,b` models.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from memcalc import estimate
from memcalc.errors import MemcalcError
from memcalc.known import forget

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MODELS = ["gpt2", "llama-2-7b", "llama-3.1-405b", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3", "t5-3b", "falcon-h1-7b",
          "qwen3.5-9b", "sdxl-unet", "vit-large-patch16-224"]  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ckpt": {"checkpointing": "full"},
    "accum": {"grad_accum": 4},
    "lora": {"lora": {"rank": 16}, "checkpointing": "full"},
    "qlora": {"lora": {"rank": 16}, "quantize": "nf4"},
}
STAGES = (8, 4, 7, 6, 3, 2)  # of pipelines: the first that a model's layers divide into
TURNS = 3


def _strategies() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each by a name; several spellings where a model may refuse the first."""
    yield from ((name, [{"gpus": 8, "sharding": sharding}]) for name, sharding in _data_parallel())
    yield from ((name, _spelled(run)) for name, run in _divided())


def _data_parallel() -> Iterator[tuple[str, Any]]:
    yield "ddp", "ddp"
    yield "ddp views", {"strategy": "ddp", "gradient_as_bucket_view": True}
    yield "ddp bf16_compress", {"strategy": "ddp", "comm_hook": "bf16_compress"}
    yield "ddp powersgd", {"strategy": "ddp", "comm_hook": "powersgd"}
    yield "ddp zero_redundancy", {"strategy": "ddp", "zero_redundancy_optimizer": True}
    for word in ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2"):
        replicas = {"replicate": 2} if "HYBRID" in word else {}
        yield f"fsdp1 {word}", {"strategy": "fsdp", "version": 1, "sharding_strategy": word, **replicas}
    yield "fsdp1 use_orig_params", {"strategy": "fsdp", "version": 1, "use_orig_params": True}
    yield "fsdp2", "fsdp"
    yield "fsdp2 no reshard", {"strategy": "fsdp", "reshard_after_forward": False}
    yield "fsdp2 reshard 2", {"strategy": "fsdp", "reshard_after_forward": 2}
    yield "fsdp2 accelerate", {"strategy": "fsdp", "wrap": "accelerate", "reduce_dtype": "fp32"}
    yield "fsdp2 layers+embed+head", {"strategy": "fsdp", "wrap": "layers+embed+head"}
    yield "fsdp2 offload", {"strategy": "fsdp", "offload_params": True}
    yield "hsdp", {"strategy": "hsdp", "replicate": 2}
    yield from ((f"zero{stage}", f"zero{stage}") for stage in range(4))
    away = {"offload_optimizer": {"device": "cpu"}}
    yield from ((f"zero{stage} offload", {"strategy": f"zero{stage}", **away}) for stage in (1, 2, 3))
    yield "zero3 offload params", {"strategy": "zero3", **away, "offload_param": {"device": "cpu"}}
    yield "zero3 auto", {"strategy": "zero3", "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                         "stage3_param_persistence_threshold": "auto"}  # fmt: skip
    yield "zero3 hpz", {"strategy": "zero3", "zero_hpz_partition_size": 4}
    yield "zero3 qwz", {"strategy": "zero3", "zero_quantized_weights": True}
    yield "zero3 mics", {"strategy": "zero3", "mics_shard_size": 4}
    yield (
        "zero3 small windows",
        {"strategy": "zero3", "stage3_max_live_parameters": 10**8, "stage3_max_reuse_distance": 10**8},
    )


def _divided() -> Iterator[tuple[str, dict[str, Any]]]:
    fsdp = {"strategy": "fsdp", "wrap": "layers+embed+head", "reduce_dtype": "fp32"}
    yield "hf tp", {"parallel": {"tensor": 2}}
    yield "hf tp sp", {"parallel": {"tensor": 2, "sequence": True}}
    yield "hf pp", {"parallel": {"pipeline": "pp"}}
    yield "hf fsdp tp", {"parallel": {"tensor": 2}, "sharding": fsdp}
    yield "hf fsdp tp pp", {"parallel": {"tensor": 2, "pipeline": "pp"}, "sharding": fsdp}
    yield "hf fsdp cp", {"parallel": {"context": 2}, "sharding": fsdp}
    yield "hf zero1 tp pp", {"parallel": {"tensor": 2, "pipeline": "pp"}, "sharding": "zero1"}
    yield "hf zero3 tp", {"parallel": {"tensor": 2}, "sharding": "zero3"}
    for name in ("torchtitan", "torchtitan-compiled"):
        yield (
            f"{name} fsdp tp sp",
            {"implementation": name, "parallel": {"tensor": 2, "sequence": True}, "sharding": fsdp},
        )
        yield f"{name} fsdp tp sp pp cp", {
            "implementation": name, "parallel": {"tensor": 2, "sequence": True, "pipeline": "pp", "context": 2}, "sharding": fsdp,
        }  # fmt: skip
    for optimizer in (True, False):
        yield from _megatron("megatron" if optimizer else "megatron plain", {"distributed_optimizer": optimizer})


def _megatron(name: str, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    sharding = {"strategy": "megatron", **options}
    again = {**sharding, "recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    degrees: dict[str, dict[str, Any]] = {
        "dp": {}, "tp": {"tensor": 2}, "tp sp cp": {"tensor": 2, "sequence": True, "context": 2}, "pp": {"pipeline": "pp"},
        "tp pp": {"tensor": 2, "pipeline": "pp", "sequence": True}, "vpp": {"tensor": 2, "pipeline": "pp", "virtual": "vpp"},
        "ep": {"expert": 4}, "tp ep pp": {"tensor": 2, "sequence": True, "expert": 4, "pipeline": "pp"},
        "dualpipe": {"pipeline": "pp", "schedule": "dualpipe"},
    }  # fmt: skip
    for word, parallel in degrees.items():
        yield f"{name} {word}", {"parallel": parallel, "sharding": sharding}
    yield f"{name} tp pp recompute", {"parallel": degrees["tp pp"], "sharding": again}


def _spelled(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The run on 64 GPUs or as many as its degrees divide, for each number of stages, with uneven ones at last."""
    degrees, runs = run["parallel"], []
    for stages in STAGES if "pp" in degrees.values() else (1,):
        for virtual in (4, 3, 2) if "vpp" in degrees.values() else (1,):
            found = {key: {"pp": stages, "vpp": virtual}.get(value, value) for key, value in degrees.items()}
            more = {"grad_accum": 2 * stages} if stages > 1 else {}
            runs.append({**run, **more, "gpus": 16 * stages, "parallel": found})
    if "pp" in degrees.values() and "vpp" not in degrees.values():
        sharding = run.get("sharding")
        if isinstance(sharding, dict) and sharding["strategy"] == "megatron":
            uneven = {**sharding, "decoder_first_pipeline_num_layers": 16, "decoder_last_pipeline_num_layers": 13}
            found = {key: {"pp": 4}.get(value, value) for key, value in degrees.items()}
            runs.append({**run, "grad_accum": 8, "gpus": 64, "parallel": found, "sharding": uneven})
    return runs


def milliseconds(*runs: dict[str, Any]) -> list[float]:
    """CPU milliseconds of one estimate of each, nothing known but what files say: the best of some turns of them all."""
    for run in runs:
        estimate(run)
    turns = [[spent(run) for run in runs] for _ in range(TURNS)]
    return [min(column) for column in zip(*turns, strict=True)]


def spent(run: dict[str, Any]) -> float:
    """CPU milliseconds of one estimate."""
    forget()
    start = time.process_time()
    estimate(run)
    return 1000 * (time.process_time() - start)


def first(runs: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The first that is not refused."""
    for run in runs:
        try:
            estimate(run)
        except MemcalcError:
            continue
        return run
    return None


def alone(run: dict[str, Any]) -> dict[str, Any]:
    """The same run on one GPU, of transformers' modules."""
    return {key: value for key, value in run.items() if key not in ("gpus", "sharding", "parallel", "implementation")}


def cell(model: str, spelled: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """(factor, milliseconds) of every variant that is not refused."""
    found = {}
    for name, variant in VARIANTS.items():
        run = first({"model": model, "gpu": "h100", **variant, **more} for more in spelled)
        if run is not None:
            plain, sharded = milliseconds(alone(run), run)
            found[name] = sharded / plain, sharded
    return found


def slowest(model: str) -> float:
    """Milliseconds of the slowest variant on one GPU."""
    runs = [first([{"model": model, "gpu": "h100", **variant}]) for variant in VARIANTS.values()]
    return max(milliseconds(*[run for run in runs if run]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", help="parts of the names of strategies")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--each", action="store_true", help="every variant by itself")
    asked = parser.parse_args()
    models = asked.models.split(",")
    print(f"{'':34}", *(f"{model[:13]:>13}" for model in models))
    print(f"{'one GPU, ms':34}", *(f"{slowest(model):13.1f}" for model in models))
    for name, spelled in _strategies():
        if asked.words and not any(word in name for word in asked.words):
            continue
        cells = [cell(model, spelled) for model in models]
        rows = [*VARIANTS] if asked.each else [""]
        for row in rows:
            shown = [max((both for key, both in found.items() if row in ("", key)), default=None) for found in cells]
            words = [f"{both[0]:5.2f} {both[1]:5.1f}ms" if both else "-" for both in shown]
            print(f"{name} {row}".ljust(34), *(f"{word:>13}" for word in words))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
