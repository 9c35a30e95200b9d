"""From a Run to a Plan: every preset found, every default filled in, and a note of each thing assumed."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures.uncounted import uncounted
from memcalc.errors import Fault, RunInvalid, shorten
from memcalc.gpus import Gpu, gpu
from memcalc.implementations import kernels, remade
from memcalc.lengths import sequence, transcribed
from memcalc.models import load_model
from memcalc.notes import Notes
from memcalc.optimizers import Optimizer
from memcalc.optimizers import resolve as find_optimizer
from memcalc.plan import Plan
from memcalc.precision import Recipe, recipe, says_frozen
from memcalc.presets import find, has
from memcalc.resolve.compatibility import incompatible, without_effect
from memcalc.resolve.pictures import pictured, remarks
from memcalc.resolve.refusals import refuse_unmodelled
from memcalc.run import Sharding
from memcalc.sharding import Strategy, placement
from memcalc.sharding.strategy import per_parameter
from memcalc.units import parse_margin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from memcalc.adapters import Adapted
    from memcalc.model import Model
    from memcalc.run import Run
    from memcalc.tensors import Tensor


def resolve(run: Run, beside: Path | None = None) -> Plan:
    """Look everything up; UnknownName or RunInvalid where something does not exist or does not go together."""
    notes = Notes()
    run = settled(run, notes)
    model = pictured(load_model(run.model, beside), run)
    run = _as_stored(run, model, notes)
    if run.implementation.startswith("torchtitan"):
        model = remade(model, run.implementation)
    chosen = recipe(run.precision)
    optimizer = _for_model(find_optimizer(run.optimizer), model)
    optimizer = _fused(optimizer) if run.implementation == "megatron" else optimizer
    card = gpu(run.gpu) if run.gpu is not None else None
    _refuse(run, model, chosen)
    place = placement(run, model)
    if run.sharding and run.sharding.strategy != "none" and place.name == "none":
        notes.assume("sharding", "one-rank", f"sharding {run.sharding.strategy} over one rank shares nothing")
    chosen = place.recipe_of(chosen)
    if not run.lora and not says_frozen(run.precision):  # tables of positions and the like are kept as the rest is
        chosen = replace(chosen, frozen=chosen.weights)
    tensors, adapted = _trained_tensors(_worded(run), model, chosen, notes)
    _note_presets(run, model, chosen, card, place, notes)
    length = sequence(run, model, notes)
    run = transcribed(run, model, length, notes)
    for warns, path, code, message in remarks(run, model, length):
        (notes.warn if warns else notes.assume)(path, code, message)
    plan = Plan(
        run, model, chosen, optimizer, tensors, place, card, _margin(run, card), length, notes, adapted,
    )  # fmt: skip
    if divides(run):
        from memcalc.resolve.division import with_ranks  # noqa: PLC0415 - few runs divide their model

        plan = with_ranks(plan, lambda its, part: _trained_tensors(its, part, chosen, Notes(), part=True)[0])
    return _accompanied(plan, beside) if run.companions else plan


def _refuse(run: Run, model: Model, chosen: Recipe) -> None:
    """RunInvalid where the run is not modelled, or its parts do not go together."""
    refuse_unmodelled(run)
    if run.implementation not in ("hf", "megatron"):
        kernels(run.implementation, model.architecture)
    faults = list(incompatible(run, model, chosen))
    if faults:
        raise RunInvalid(faults)


def _note_presets(run: Run, model: Model, chosen: Recipe, card: Gpu | None, place: Strategy, notes: Notes) -> None:
    """What the run leaves to defaults, and what its presets say of themselves."""
    _note_defaults(run, notes)
    notes.assume_all("model", model.notes)
    _note_misspelt(run.model, model, notes)
    _note_uncounted(model, notes)
    for key, why in without_effect(run):
        notes.warn(key, "no-effect", why)
    notes.assume_all("precision", chosen.notes)
    notes.assume_all("gpu", (card.assumed,) if card and card.assumed else ())
    told = per_parameter(place, chosen)
    notes.assume_all("sharding", (*((told,) if told else ()), *place.notes))


def _note_misspelt(spec: str | Mapping[str, Any], model: Model, notes: Notes) -> None:
    """Warn of inline dimensions that nothing reads and that are nearly the name of one that is."""
    if isinstance(spec, str) or model.dimensions is None:
        return
    for key, meant in model.dimensions.misspelt(spec).items():
        notes.warn(
            f"model.{key}", "unread", f"changes nothing: the architecture reads no such key; did you mean {meant}?"
        )


def _note_uncounted(model: Model, notes: Notes) -> None:
    """Warn of what the config asks its class for that is not counted."""
    for key, what in uncounted(model.dimensions) if model.dimensions else ():
        notes.warn(key, "not-counted", what)


def divides(run: Run) -> bool:
    """Whether ranks hold different parts of the model, or modules of Megatron-LM run it."""
    p = run.parallel
    return (
        run.implementation == "megatron" or max(p.tensor, p.pipeline, p.context, p.expert, p.virtual) > 1 or p.sequence
    )


def settled(run: Run, notes: Notes | None = None) -> Run:
    """Megatron-LM's data parallelism comes with its modules, and the other way round."""
    notes = Notes() if notes is None else notes
    strategy = run.sharding.strategy if run.sharding else ""
    if strategy == "megatron" and run.implementation == "hf":
        notes.assume("implementation", "default", "Megatron-LM's own modules: sharding megatron comes with them")
        return replace(run, implementation="megatron")
    if run.implementation == "megatron" and not strategy:
        notes.assume(
            "sharding", "default", "megatron: its modules come with its data parallelism and distributed optimizer"
        )
        return replace(run, sharding=Sharding(strategy="megatron"))
    return run


def _as_stored(run: Run, model: Model, notes: Notes) -> Run:
    """Under adapters the base stays packed as its repository's name says; a name that is a preset's says nothing."""
    if not (run.lora and model.notes and run.quantize is None and isinstance(run.model, str)):
        return run
    from memcalc.models.names import packing  # noqa: PLC0415 - few name a model so

    stored = packing(run.model)
    if stored is None:
        return run
    notes.assume("quantize", "stored", f"{stored}, as the end of {shorten(run.model)!r} says")
    return replace(run, quantize=stored)


def _worded(run: Run) -> Run:
    """The run with transformers' names for what adapters are put on, where it has Megatron-LM's."""
    if run.implementation != "megatron" or not run.lora:
        return run
    from memcalc.sharding.adapting import in_transformers_words  # noqa: PLC0415 - few runs have adapters there

    return replace(run, lora=in_transformers_words(run.lora))


def _accompanied(plan: Plan, beside: Path | None) -> Plan:
    """The plan with those of the models that are held beside its own."""
    from memcalc.companions import company  # noqa: PLC0415 - most runs have none

    if plan.ranks:
        return replace(plan, ranks=tuple(replace(rank, companions=company(rank, beside)) for rank in plan.ranks))
    return replace(plan, companions=company(plan, beside))


def _fused(optimizer: Optimizer) -> Optimizer:
    """The same optimizer as one kernel, where it has one: Megatron-LM takes Transformer Engine's or apex's."""
    named = _named(optimizer)
    spec = named if isinstance(named, dict) else {"name": named}
    try:
        return find_optimizer({**spec, "implementation": "fused"})
    except RunInvalid:
        return optimizer


def _for_model(optimizer: Optimizer, model: Model) -> Optimizer:
    """The optimizer with the options that follow from the model's dimensions (Adam-mini's heads)."""
    known = model.dimensions
    if known is None:
        return optimizer
    return optimizer.for_model({key: known[key] for key in optimizer.from_model.values() if key in known})


def _trained_tensors(
    run: Run, model: Model, chosen: Recipe, notes: Notes, *, part: bool = False
) -> tuple[tuple[Tensor, ...], Adapted | None]:
    """The tensors, each learning or not, after adapters and quantised storage; `part`: of what one rank holds."""
    tensors, adapted = _learning(run, model, notes, part=part), None
    if run.lora:
        from memcalc.adapters import adapt  # noqa: PLC0415 - only runs with adapters need it

        base = "quantized" if run.quantize else chosen.frozen
        adapted = adapt(tensors, run.lora, model.architecture, model.dimensions, base)
        tensors = adapted.tensors
        notes.assume_all("lora", adapted.notes)
        notes.warn_all("lora", adapted.warnings)
        kept = run.quantize or chosen.frozen
        name = kept if isinstance(kept, str) else kept.get("name", kept)
        notes.assume("lora", "frozen-base", f"the base model is frozen and stored in {name}")
    elif run.quantize:
        from memcalc.quantization.storage import scheme  # noqa: PLC0415

        scheme(run.quantize)  # a name that there is not is said first
        raise RunInvalid(
            [Fault("quantize", "quantised weights can't be trained; add `lora: {rank: 16}` to train adapters")]
        )
    if run.quantize:
        from memcalc.quantization import quantize  # noqa: PLC0415

        stored = quantize(tensors, run.quantize, chosen.frozen, model.architecture, model.dimensions)
        notes.assume_all("quantize", stored.notes)
        notes.warn_all("quantize", stored.warnings)
        tensors = stored.tensors
    return tensors, adapted


def _learning(run: Run, model: Model, notes: Notes, *, part: bool) -> tuple[Tensor, ...]:
    """The model's tensors as `train` and `freeze` say; with adapters the base is frozen whatever they say."""
    if not (run.train or run.freeze):
        return model.tensors
    if run.lora:
        notes.warn("train" if run.train else "freeze", "adapters-alone",
                   "lora freezes the base model: train and freeze change nothing; lora.save_modules trains copies")  # fmt: skip
        return model.tensors
    from memcalc.freezing import learning, unmatched  # noqa: PLC0415 - few runs freeze anything

    found = learning(model.tensors, run.train, run.freeze)
    if part:  # what a pattern means may be on another rank
        return found
    missed = list(unmatched(model.tensors, run.train, run.freeze))
    if len(missed) == len(run.train) + len(run.freeze):
        raise RunInvalid([Fault(where, message) for where, message in missed])
    if not any(tensor.trainable and not tensor.buffer for tensor in found):
        told = [Fault("train" if run.train else "freeze", "no tensor is left that learns")]
        raise RunInvalid([*told, *(Fault(where, message) for where, message in missed)])
    for where, message in missed:
        notes.warn(where, "matches-nothing", message)
    return found


def _margin(run: Run, card: Gpu | None) -> int:
    try:
        return parse_margin(run.margin, card.usable if card else 2**60)
    except ValueError as error:
        raise RunInvalid([Fault("margin", str(error))]) from error


_DEFAULTS = {
    "precision": "the recipe {precision}: 16 bytes per parameter with Adam, as in DeepSpeed and the ZeRO paper",
    "optimizer": "the optimizer {optimizer}",
    "batch_size": "a micro batch of {batch_size} per GPU",
}


def _note_defaults(run: Run, notes: Notes) -> None:
    blank = type(run)(model=run.model)
    for key, text in _DEFAULTS.items():
        if getattr(run, key) == getattr(blank, key):
            notes.assume(key, "default", text.format(**{key: getattr(run, key)}))
    if run.sharding is None and run.gpus > 1:
        notes.assume("sharding", "default", f"ddp: each of the {run.gpus} GPUs holds everything")


def resolved_run(plan: Plan) -> dict[str, Any]:
    """Every key of the run with the value it was given or assumed, names as the presets spell them; it can be run again."""
    run = plan.run
    written: dict[str, Any] = {**asdict(run), "seq_len": plan.seq_len or None, "optimizer": _named(plan.optimizer)}
    if isinstance(run.model, str) and has("models", run.model):
        written["model"] = plan.model.name
    if isinstance(run.precision, str):
        written["precision"] = find("precisions", run.precision)["id"]
    if isinstance(run.quantize, str):
        written["quantize"] = find("quantizations", run.quantize)["id"]
    if run.lora:
        written["lora"]["rank"] = run.lora.resolved_rank or None
    written["gpu"] = plan.gpu.name if plan.gpu else None
    written["sharding"] = {"strategy": _strategy(plan), **(run.sharding.options if run.sharding else {})}
    return written


def _strategy(plan: Plan) -> str:
    """The strategy by its word: as asked, else as assumed."""
    return plan.run.sharding.strategy if plan.run.sharding else plan.placement.name


def _named(optimizer: Optimizer) -> str | dict[str, Any]:
    """An optimizer by its preset's name, with the library, the implementation and the options that are not its defaults."""
    plain, changed = find_optimizer(optimizer.name), dict[str, Any]()
    if optimizer.library != plain.library:
        changed["library"] = optimizer.library
        plain = find_optimizer({"name": optimizer.name, **changed})
    changed |= {key: value for key, value in optimizer.options.items() if plain.options.get(key) != value}
    if optimizer.implementation != plain.implementation:
        changed["implementation"] = optimizer.implementation
    if optimizer.bytes_per_parameter is not None:
        changed["bytes_per_parameter"] = optimizer.bytes_per_parameter
    return {"name": optimizer.name, **changed} if changed else optimizer.name
