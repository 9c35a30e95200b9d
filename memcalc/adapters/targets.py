"""From what the run names to the sites: the library's choice, all-linear, regular expressions, and what can't be."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.adapters.cards import card
from memcalc.adapters.patterns import chosen, crosses, parents, sample
from memcalc.adapters.rules import Rule, layer_of
from memcalc.adapters.sites import Module, Site, site
from memcalc.errors import Fault, RunInvalid, fault, nearest_names, shorten
from memcalc.freezing import endless
from memcalc.presets import find
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcalc.adapters.spec import Lora

# kinds of modules a method has layers for (peft, tuners/<method>/model.py, _create_new_module)
SUPPORTED: dict[str, tuple[str, ...]] = {
    "lora": ("linear", "conv1d", "embedding", "conv"),
    "dora": ("linear", "conv1d", "embedding", "conv"),
    "adalora": ("linear", "conv1d", "conv"),
    "loha": ("linear", "conv"),
    "lokr": ("linear", "conv"),
    "ia3": ("linear", "conv1d", "conv"),
    "vera": ("linear", "conv1d"),
    "oft": ("linear", "embedding", "conv"),
}
RANKED = (
    "lora",
    "dora",
    "loha",
    "lokr",
)  # methods with sizes for names of modules (rank_pattern), as those presets say
ALL_LINEAR = "all-linear"
CLASSIFIERS = ("score", "classifier")  # heads that all-linear leaves out of a SEQ_CLS task
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of attention in diffusers


def library_choice(method: str, key: str, model_type: str) -> tuple[str, ...] | str | None:
    """What peft targets in this type of model where the run does not say; None where it has no choice."""
    known: dict[str, Any] = find("adapters", {"dora": "lora"}.get(method, method))
    chosen = known[key].get(model_type)
    if chosen is None:
        return library_choice(known["extends"], key, model_type) if "extends" in known else None
    return chosen if isinstance(chosen, str) else tuple(chosen)


def scripts_choice(method: str, model_type: str) -> tuple[str, ...] | str | None:
    """What diffusers' training scripts target in this class of denoiser, by LoRA; None where there is no such script."""
    chosen = find("adapters", "denoisers")["targets"].get(model_type) if method in ("lora", "dora") else None
    return tuple(chosen) if isinstance(chosen, list) else chosen


def targets_of(lora: Lora, model_type: str, modules: Iterable[Module] = ()) -> tuple[str, ...] | str:
    """The targets: as named, else the library's choice; RunInvalid, with names of `modules`, where it has none."""
    chosen = lora.targets if lora.targets is not None else library_choice(lora.method, "targets", model_type)
    if chosen is None and not lora.parameters:
        chosen = scripts_choice(lora.method, model_type)
    if chosen is None and lora.parameters:
        return ()
    if chosen is None:
        some = ", ".join(_commonest(modules)) or "q_proj, v_proj"
        raise fault("lora.targets", f"peft has no default targets of {lora.method} for {model_type or 'this model'}; "
                                    f"name the modules ([{some}]) or all of them: --set lora.targets=all-linear")  # fmt: skip
    return chosen


def _commonest(modules: Iterable[Module], most: int = 4) -> list[str]:
    """Names of linear modules as a target names them, those that the model has the most of; of a denoiser attention's."""
    counts: Counter[str] = Counter()
    for module in modules:
        if module.kind in ("linear", "conv1d"):
            counts[_ending(module.name)] += module.count
    own = [name for name in PROJECTIONS if name in counts]
    return own if len(own) > 1 else [name for name, _ in counts.most_common(most)]


def _ending(pattern: str) -> str:
    """A module's own name; one that is a number goes with the name before it."""
    parent, _, name = sample(pattern).rpartition(".")
    return f"{parent.rpartition('.')[2]}.{name}" if parent and name.isdigit() else name


def rule_of(lora: Lora, targets: tuple[str, ...] | str) -> Rule:
    """The rule that the run's words make."""
    everything = isinstance(targets, str) and targets.lower() == ALL_LINEAR
    pattern = _compiled("lora.targets", targets) if isinstance(targets, str) and not everything else None
    layers = (lora.layers,) if isinstance(lora.layers, int) else lora.layers or ()
    where = (lora.layers_pattern,) if isinstance(lora.layers_pattern, str) else lora.layers_pattern or ()
    for key, texts in (("rank_pattern", lora.rank_pattern), ("layers_pattern", where)):
        for text in texts:
            _compiled(f"lora.{key}", text)
    return Rule(
        names=() if isinstance(targets, str) else targets,
        pattern=pattern,
        everything=everything,
        exclude=_compiled("lora.exclude", lora.exclude) if isinstance(lora.exclude, str) else lora.exclude or (),
        saved=lora.save_modules,
        layers=frozenset(layers),
        layers_patterns=where,
        rank=lora.resolved_rank,
        ranks=tuple(lora.rank_pattern.items()) if _ranked(lora.method) else (),
    )


def module_sites(lora: Lora, rule: Rule, modules: Mapping[str, Module], heads: Iterable[str]) -> tuple[Site, ...]:
    """The sites on modules; RunInvalid where a target is no module, or none that the method has a layer for."""
    candidates = [m for m in modules.values() if m.name]
    if rule.everything:
        candidates = [m for m in candidates if m.kind in ("linear", "conv1d") and m.name not in heads]
    found = [(module, part) for module in candidates for part in rule.select(module)]
    _check(lora, rule, modules, {module.name for module, _ in found})
    made = [(site(module, *part), module) for module, part in found]
    supported = SUPPORTED.get(lora.method) or card(lora.method)["kinds"]
    wrong = [m for s, m in made if s is None or m.kind not in supported]
    if wrong:
        kinds = ", ".join(supported)
        raise RunInvalid([Fault("lora.targets", f"target module {m.name} ({m.kind}) is not supported: {lora.method} "
                                                f"adapts only {kinds} modules") for m in wrong])  # fmt: skip
    return tuple(s for s, _ in made if s)


def feedforward_of(model_type: str) -> tuple[str, ...] | str:
    """peft's choice of IA3's feed-forward modules; RunInvalid where it has none."""
    words = library_choice("ia3", "feedforward", model_type)
    if words is None:
        raise fault("lora.feedforward", f"peft has no default for {model_type or 'this model'}; name the modules whose "
                                        "inputs are scaled, or []")  # fmt: skip
    return words


def feedforward_sites(sites: Iterable[Site], words: tuple[str, ...] | str) -> Iterator[Site]:
    """IA3's sites with those marked whose input is scaled instead of the output (_check_target_module_feedforward)."""

    def scales_input(name: str) -> bool:
        return re.fullmatch(words, name) is not None if isinstance(words, str) else name.endswith(words)

    for one in sites:
        alike = not isinstance(words, str) and not any(crosses(one.module, word) for word in words)
        for pattern, count, value in chosen(one.module, one.count, scales_input, alike=alike):
            yield replace(one, module=pattern, count=count, feedforward=value)


def check_compatible(method: str, model_type: str, sites: Iterable[Site]) -> None:
    """RunInvalid where a module's forward is bypassed by the model's fused kernels (Mamba)."""
    known = find("adapters", "incompatible")
    if method in known["methods"] and model_type in known["model_types"]:
        wrong = sorted({s.module.rpartition(".")[2] for s in sites} & set(known["modules"]))
        if wrong:
            raise fault("lora.targets", f"{', '.join(wrong)} can't be adapted in {model_type}: its fused kernels bypass "
                                        "the module; leave it out (`exclude`)")  # fmt: skip


def unmatched(names: Iterable[str], sites: Iterable[Site]) -> list[str]:
    """Targets that no site is named by."""
    adapted = {sample(s.module) for s in sites} | {f"{sample(s.module)}.{s.parameter}" for s in sites if s.parameter}
    open_ = [s.module for s in sites]
    return [
        n for n in names
        if not any(f".{a}".endswith(f".{n}") for a in adapted) and not any(crosses(m, f".{n}") for m in open_)
    ]  # fmt: skip


def _ranked(method: str) -> bool:
    return method in RANKED or "pattern" in card(method).get("rank", {})


def _compiled(where: str, pattern: str) -> re.Pattern[str]:
    if endless(pattern):
        raise fault(where, f"{shorten(pattern)!r} is too long, or repeats a repetition")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise fault(where, f"{pattern!r} is not a regular expression: {error}") from error


def _check(lora: Lora, rule: Rule, modules: Mapping[str, Module], found: set[str]) -> None:
    """RunInvalid where a layer does not exist, a container is targeted, or nothing is."""
    if rule.layers:
        indices = {i for m in _in_any_layer(rule, modules) for n in expand(m)
                   if (i := layer_of(n, rule.layers_patterns)) is not None}  # fmt: skip
        beyond = sorted(rule.layers - indices)
        if beyond and indices:
            raise fault("lora.layers", f"{', '.join(map(str, beyond))}: the targets are in layers "
                                       f"{min(indices)} to {max(indices)}")  # fmt: skip
    containers = [c for c in _containers(modules) if c not in modules and _takes(rule, c, found)]
    if containers:
        inside = sorted({_ending(m) for m in modules if m.startswith(f"{containers[0]}.")})
        raise fault("lora.targets", f"target module {sample(containers[0])} is not supported: it is no layer itself; "
                                    f"target what is inside: {', '.join(inside[:8])}")  # fmt: skip
    if not found and not lora.parameters:
        raise fault("lora.targets", not_found(rule, modules))


def _in_any_layer(rule: Rule, modules: Mapping[str, Module]) -> list[str]:
    """The modules that the rule would choose in any layer."""
    anywhere = replace(rule, layers=frozenset(), exclude=(), saved=())
    return [m.name for m in modules.values() if any(True for _ in anywhere.select(m))]


def _takes(rule: Rule, container: str, found: set[str]) -> bool:
    """Whether a rule asks for a container: a regular expression that matches it, or a name that is nothing else."""
    if rule.everything or (rule.names and found):
        return False
    return any(rule.chooses(name) for name in ((sample(container),) if rule.uniform(container) else expand(container)))


def _containers(modules: Iterable[str]) -> list[str]:
    """The modules that only hold others: every beginning of a module's name."""
    return list(dict.fromkeys(container for name in modules for container in parents(name)))


def not_found(rule: Rule, modules: Mapping[str, Module]) -> str:
    """peft's message, with the nearest names the model has."""
    asked = rule.pattern.pattern if rule.pattern else ", ".join(rule.names) or ALL_LINEAR
    known = list(dict.fromkeys(_ending(m.name) for m in modules.values() if m.kind in SUPPORTED["lora"]))
    near = [n for name in rule.names for n in nearest_names(name.rpartition(".")[2], known)] or known[:12]
    layers = f" in layers {sorted(rule.layers)}" if rule.layers else ""
    note = "" if not rule.pattern else "; a text is a regular expression for whole names, a list holds endings"
    return (
        f"target modules {asked} not found{layers} in the base model; nearest: {', '.join(dict.fromkeys(near))}{note}"
    )
