"""Megatron-LM's words, wherever a config keeps them: in nested sections (FlagScale), under `model` (NeMo), at the top.

What they have in common is read here: degrees of parallelism, the GPUs, the batch that is left to each rank.
"""

from __future__ import annotations

from dataclasses import field
from math import lcm, prod
from typing import TYPE_CHECKING, Any

from memcalc.configs.words import truth, whole
from memcalc.dataclass import dataclass
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memcalc.configs.table import Sheet

ARGUMENTS = "megatron/training/arguments.py"
DEGREES = {"tensor": "tensor_model_parallel_size", "pipeline": "pipeline_model_parallel_size",
           "context": "context_parallel_size", "expert": "expert_model_parallel_size",
           "expert_tensor": "expert_tensor_parallel_size"}  # fmt: skip


@dataclass(frozen=True)
class Words:
    """A sheet in which each word is at some dotted path; `paths` holds those that are elsewhere than at the top.

    `grouped` where num_query_groups counts without group_query_attention (NeMo).
    """

    sheet: Sheet
    paths: Mapping[str, str] = field(default_factory=dict)
    source: str = ARGUMENTS
    grouped: bool = False

    def at(self, word: str) -> str:
        """The dotted path of a word in the document."""
        return self.paths.get(word, word)

    def has(self, *words: str) -> bool:
        """Whether one of the words is written and not null."""
        return any(self.sheet.has(self.at(word)) for word in words)

    def read(self, convert: Callable[[Any], Any], *words: str, default: Any = None) -> Any:  # noqa: ANN401
        """What `convert` makes of the first of the words that is written."""
        return self.sheet.read(convert, *(self.at(word) for word in words), default=default)

    def number(self, *words: str, default: int = 0) -> int:
        """A whole number."""
        return int(self.read(whole, *words, default=default))

    def flag(self, *words: str, default: bool = False) -> bool:
        """Whether a switch is on."""
        return bool(self.read(truth, *words, default=default))

    def put(self, ours: str, value: Any, *words: str, default: str = "") -> None:  # noqa: ANN401
        """Set a path of the run; `default` says where the framework sets it, where no word is written."""
        self.sheet.put(ours, value, *(self.at(word) for word in words), default=default or self.source)


def flattened(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(word, dotted path) of every value of nested sections; dashes are underscores (FlagScale's runner does likewise)."""
    for key, value in data.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict):
            yield from flattened(value, path)
        else:
            yield str(key).replace("-", "_"), path


def parallel(words: Words) -> dict[str, int]:
    """Set `parallel`; the degrees. Sequence parallelism without tensor parallelism is switched off, as there."""
    degrees = {ours: max(1, words.number(theirs, default=1)) for ours, theirs in DEGREES.items()}
    if not words.has(DEGREES["expert_tensor"]):
        degrees["expert_tensor"] = degrees["tensor"]
    for ours, theirs in DEGREES.items():
        if degrees[ours] != (degrees["tensor"] if ours == "expert_tensor" else 1):
            words.put(f"parallel.{ours}", degrees[ours], theirs)
    if words.flag("sequence_parallel") and degrees["tensor"] > 1:
        words.put("parallel.sequence", True, "sequence_parallel")
    return degrees


def virtual(words: Words, pipeline: int, layers: int) -> None:
    """Set the chunks of each stage and the schedule: as said, or by the layers of a chunk."""
    chunks = words.number(
        "virtual", "num_virtual_stages_per_pipeline_rank", "virtual_pipeline_model_parallel_size", default=1
    )
    each = words.number("num_layers_per_virtual_pipeline_stage", default=0)
    if each and pipeline > 1 and layers % (pipeline * each) == 0:
        chunks = layers // (pipeline * each)
    if chunks > 1 and pipeline > 1:
        words.put("parallel.virtual", chunks, "virtual", "num_layers_per_virtual_pipeline_stage",
                  "num_virtual_stages_per_pipeline_rank")  # fmt: skip
        words.put("parallel.schedule", "interleaved", "virtual", "num_layers_per_virtual_pipeline_stage",
                  "num_virtual_stages_per_pipeline_rank")  # fmt: skip


def least(degrees: Mapping[str, int], *, experts: bool) -> int:
    """GPUs of one copy of the model: the fewest that its degrees divide."""
    dense = prod(degrees[key] for key in ("tensor", "pipeline", "context"))
    sparse = prod(degrees[key] for key in ("expert", "expert_tensor", "pipeline")) if experts else 1
    return lcm(dense, sparse)


def gpus(
    words: Words, degrees: Mapping[str, int], *, experts: bool, written: int | None, keys: tuple[str, ...] = ()
) -> int:
    """Set `gpus`: as asked, as written, else as many as one copy of the model takes, with a note."""
    sheet, fewest = words.sheet, least(degrees, experts=experts)
    if sheet.asked.gpus or written or fewest == 1:
        return sheet.gpus(*(words.at(key) for key in keys), count=written)
    sheet.put("gpus", fewest, *(words.at(word) for word in DEGREES.values() if words.has(word)))
    sheet.assume("gpus", "gpus-not-in-config", f"{sheet.title} files do not say on how many GPUs they run: the {fewest} that "
                 "their degrees of parallelism take are assumed; say how many with --gpus")  # fmt: skip
    return fewest


def batch(words: Words, degrees: Mapping[str, int], count: int) -> None:
    """Set micro batch and accumulation: global batch / (micro batch x data parallel ranks)."""
    ranks = max(1, count // prod(degrees[key] for key in ("tensor", "pipeline", "context")))
    micro = max(1, words.number("micro_batch_size", default=1))
    words.put("batch_size", micro, "micro_batch_size")
    total = words.number("global_batch_size", default=micro * ranks)
    steps = total // (micro * ranks)
    if total % (micro * ranks):
        words.sheet.warn(words.at("global_batch_size"), "does-not-divide",
                         f"global batch size ({total}) is not divisible by micro batch size ({micro}) times data parallel "
                         f"size ({ranks}): {max(1, steps)} micro batches are counted")  # fmt: skip
    words.put("grad_accum", max(1, steps), "global_batch_size", "micro_batch_size", *DEGREES.values())


def table() -> Any:  # noqa: ANN401 - plain data
    """The table of words."""
    return find("frameworks", "megatron")
