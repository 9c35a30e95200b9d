"""The ranks of a run under tensor, pipeline, context and expert parallelism: the model that each kind of them holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.blocks.base import Block, Stack
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, fault
from memcalc.sharding.context import local_tokens
from memcalc.sharding.pipeline import Stage, balanced, cut, dealt, in_flight, longest_stack, refused, stages, uneven
from memcalc.sharding.tensor_parallel import divided, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memcalc.model import Model
    from memcalc.run import Run
    from memcalc.ways import Ways

TRANSFORMER = "type:transformer"  # --pp-partition-method


@dataclass(frozen=True)
class Rank:
    """One kind of rank: its pipeline stage, and the model that is left of the whole.

    `surpassed` where another kind holds all that this one does, and more.
    """

    label: str
    stage: Stage
    model: Model
    ways: Ways
    surpassed: bool = False


def ranks(run: Run, model: Model, ways: Ways, options: Mapping[str, Any], seq: int) -> tuple[Rank, ...]:
    """Every distinct kind of rank, the first of each; RunInvalid lists what does not divide or go together."""
    layers = _layers(model)
    degrees = run.parallel
    split = _split(run, layers, options)
    faults = [*_faults(run, model, ways, layers, seq), *refused(layers, degrees, run.grad_accum, split=bool(split))]
    table = table_of(model.body)
    tables = {tensor.name for tensor in model.tensors if tensor.role == "embedding"}
    tied = any(tensor.tied_to in tables for tensor in model.tensors if tensor.role != "embedding")
    whole = replace(ways, words=table.rows, width=table.width, tied=tied) if table else ways
    if faults:
        raise RunInvalid(faults)
    local, more = divided(_predicting(model, options), whole)
    if more:
        raise RunInvalid(more)
    made = _converted(local, whole) if run.implementation == "megatron" else local
    found = [_rank(run, model, made, stage, whole) for stage in distinct(made, stages(layers, degrees, split))]
    held = [_holdings(made, rank) for rank in found]
    partly = bool(run.lora or run.train or run.freeze)
    return tuple(
        replace(rank, surpassed=any(_surpasses(other, own, partly=partly) for other in held))
        for rank, own in zip(found, held, strict=True)
    )


def _predicting(model: Model, options: Mapping[str, Any]) -> Block:
    """The body, with Megatron's layers for further tokens where they are asked for."""
    if not options.get("mtp_num_layers"):
        return model.body
    from memcalc.sharding.predicting import with_predictors  # noqa: PLC0415 - few runs have them

    return with_predictors(model, options["mtp_num_layers"])


def _split(run: Run, layers: int, options: Mapping[str, Any]) -> list[int] | None:
    """Layers of each stage where they are uneven: as Megatron's options say, as DeepSpeed or torchtitan deals them out."""
    pp = run.parallel.pipeline
    if run.implementation == "megatron" and run.sharding and run.sharding.strategy == "megatron":
        first, last = (options.get(f"decoder_{end}_pipeline_num_layers") for end in ("first", "last"))
        return uneven(layers, pp, first, last)
    if layers % pp and run.implementation == "megatron":
        return _filled(run, layers)
    chunks = pp * run.parallel.virtual
    return dealt(layers, chunks) if layers % chunks else None


def _filled(run: Run, layers: int) -> list[int]:
    """Megatron-DeepSpeed's stages; RunInvalid where some have no layer."""
    method = str(run.sharding.options.get("partition_method", TRANSFORMER)) if run.sharding else TRANSFORMER
    counts = balanced(layers, run.parallel.pipeline, method)
    if min(counts) < 1:
        raise fault("parallel.pipeline", f"{layers} layers leave stages without any ({', '.join(map(str, counts))})")
    return counts


def _converted(body: Block, ways: Ways) -> Block:
    from memcalc.sharding.modules import megatron  # noqa: PLC0415 - other implementations need none of it

    return megatron(body, ways.vocabulary(ways.words))


def _rank(run: Run, model: Model, body: Block, stage: Stage, ways: Ways) -> Rank:
    pp = run.parallel.pipeline
    part = cut(body, stage) if pp > 1 else body
    flying = in_flight(stage.rank, run.parallel, run.grad_accum)
    place = replace(
        ways,
        stage=stage.rank,
        first=stage.first,
        last=stage.last,
        micro_batches=run.grad_accum,
        in_flight=flying,
        chunks=run.parallel.virtual,
    )
    label = f"stage {stage.rank} of {pp}" if pp > 1 else "rank 0"
    return Rank(label, stage, _regrouped(replace(model, body=part), ways), place)


def _regrouped(model: Model, ways: Ways) -> Model:
    """The model with what recomputation runs again put together; its tensors keep their names."""
    apart = ways.recompute == "selective" and "layernorm" in ways.modules
    if not apart and ways.recompute not in ("uniform", "block"):
        return model
    from memcalc.sharding.recomputation import grouped, norms  # noqa: PLC0415 - few runs recompute these

    body = norms(model.body) if apart else grouped(model.body, ways.recompute, ways.recomputed_layers)
    made = replace(model, body=body)
    made.__dict__["tensors"] = model.tensors
    return made


def distinct(body: Block, every: tuple[Stage, ...]) -> Iterator[Stage]:
    """Stages that hold other layers than those before them, or a table, or a head: of like ones the first is the fullest."""
    stack = longest_stack(body)
    seen = set()
    for stage in every:
        kinds = tuple(id(stack.layers[i]) for i in stage.layers) if stack else ()
        key = (tuple(sorted(kinds)), stage.first, stage.last)
        if key not in seen:
            seen.add(key)
            yield stage


class Holdings(NamedTuple):
    """What a rank holds: how many layers of each kind (by identity), ends of the pipeline, micro batches in flight."""

    layers: Counter[int]
    first: bool
    last: bool
    flying: Fraction


def _holdings(body: Block, rank: Rank) -> Holdings:
    stack = longest_stack(body)
    kinds = Counter(id(stack.layers[i]) for i in rank.stage.layers) if stack else Counter[int]()
    return Holdings(kinds, rank.stage.first, rank.stage.last, Fraction(*rank.ways.in_flight))


def _surpasses(other: Holdings, own: Holdings, *, partly: bool) -> bool:
    """Whether the other holds all that this one does: its layers, its ends of the pipeline, as many micro batches.

    Where a model is trained `partly`, nobody asks the first stage for the gradient of its input.
    """
    ends = (other.first == own.first if partly else other.first >= own.first) and other.last >= own.last
    return other != own and ends and other.flying >= own.flying and not own.layers - other.layers


def _layers(model: Model) -> int:
    stack = longest_stack(model.body)
    return len(stack.layers) if stack else 0


def _faults(run: Run, model: Model, ways: Ways, layers: int, seq: int) -> Iterator[Fault]:
    degrees, gpus = run.parallel, run.gpus
    size = degrees.tensor * degrees.pipeline * degrees.context
    if gpus % size:
        yield Fault("gpus", f"world_size ({gpus}) is not divisible by {size} (tensor * pipeline * context)")
    if degrees.tp_plan == "auto" and (degrees.sequence or run.implementation != "hf"):
        yield Fault("parallel.tp_plan", "plans of transformers' own divide its modules, and no sequences; leave it out")
    if degrees.tp_plan == "auto" and degrees.tensor > 1 and (why := dict(model.tp_plan).get("fails")):
        yield Fault("parallel.tp_plan", why)
    if degrees.sequence and degrees.tensor == 1:
        yield Fault("parallel.sequence", "Cannot use sequence parallelism without tensor parallelism")
    mixtures = has_experts(model.body)
    if degrees.expert > 1 and not mixtures:
        yield Fault("parallel.expert", "num_moe_experts must be non None to use expert-parallel.")
    inner = ways.expert * ways.expert_tensor * degrees.pipeline
    if mixtures and gpus % inner:
        yield Fault(
            "gpus", f"world_size ({gpus}) is not divisible by expert_tensor_model_pipeline_parallel size ({inner})"
        )
    if degrees.pipeline > 1 and model.kind not in ("causal-lm", "masked-lm"):
        yield Fault("parallel.pipeline", f"pipelines of a {model.kind} model are not modelled; leave it at 1")
    if model.tables or model.nominal or not layers:
        yield Fault("parallel", "this model has no layers to divide: name a preset or a config.json")
    if seq:
        yield from local_tokens(seq, degrees.context, degrees.tensor, sequence=degrees.sequence)[1]


def has_experts(block: Block) -> bool:
    """Whether a mixture of experts is below a block."""
    from memcalc.blocks.mlp import Moe  # noqa: PLC0415 - it is loaded with any model

    return isinstance(block, Moe) or any(
        has_experts(part) for _, part in block.groups() if not isinstance(part, Stack) or part.layers
    )
