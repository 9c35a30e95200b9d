"""LoRA on parameters: stacked 3-D experts, and the old names of experts turned into them (peft 0.21 on transformers 5)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.adapters.patterns import chosen, crosses, sample
from memcalc.adapters.sites import Site
from memcalc.adapters.targets import ALL_LINEAR, library_choice, rule_of
from memcalc.errors import fault, nearest_names
from memcalc.presets import find
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.adapters.rules import Rule
    from memcalc.adapters.sites import Module
    from memcalc.adapters.spec import Lora
    from memcalc.tensors import Tensor


def on_experts(lora: Lora, model_type: str, modules: Mapping[str, Module], heads: Iterable[str]) -> Lora:
    """The run's words with targets of separate experts turned into parameters (_convert_peft_config_moe).

    gate_proj and up_proj become one parameter of twice the rank; one without the other can't be.
    """
    family = _family(model_type)
    if family is None or lora.method not in ("lora", "dora") or lost(lora, model_type):
        return lora
    if lora.targets is None and not lora.parameters:
        return lora
    renamed: dict[str, str] = family["modules"]
    asked = lora.targets or ()
    names = _leaves(lora, asked, renamed, modules, heads) if isinstance(asked, str) else asked
    if isinstance(asked, str) and not names:
        return lora
    old = {name: next((o for o in renamed if name == o or name.endswith(f".{o}")), None) for name in names}
    parameters = (*lora.parameters, *(renamed[o] for o in old.values() if o))
    ranks = dict(lora.rank_pattern)
    for new, parts in family["fused"].items():
        present = [o for o in parts if o in old.values()]
        if present and len(present) < len(parts):
            missing = [o for o in parts if o not in present]
            raise fault("lora.targets", f"{', '.join(present)} can't be adapted without {', '.join(missing)}: "
                                        f"the model keeps them fused in {new}")  # fmt: skip
        if present:
            ranks[rf".*\.{re.escape(new)}"] = lora.resolved_rank * len(parts)
    kept = tuple(name for name, o in old.items() if o is None)
    return replace(lora, targets=kept, parameters=tuple(dict.fromkeys(parameters)), rank_pattern=ranks)


def lost(lora: Lora, model_type: str) -> bool:
    """Whether peft 0.21 loses its own choice of targets: it looks for separate experts before it has chosen any."""
    none = lora.targets is None and not lora.parameters and lora.method in ("lora", "dora")
    return none and _family(model_type) is not None and library_choice(lora.method, "targets", model_type) is not None


def parameter_sites(
    lora: Lora, rule: Rule, tensors: Iterable[Tensor], model_type: str, taken: set[str]
) -> tuple[Site, ...]:
    """The sites on parameters named in the run, or ending so (_inject_parameters); a fault where there are none."""
    found = [(t, *chosen) for t in tensors if not t.buffer for chosen in _select(lora.parameters, rule, t)]
    missing = () if found else lora.parameters
    if missing:
        known = {t.name.rpartition(".")[2] for t in tensors} | {".".join(t.name.split(".")[-2:]) for t in tensors}
        near = [n for name in missing for n in nearest_names(name, sorted(known))]
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise fault("lora.parameters", f"target parameters {', '.join(missing)} not found in the base model{hint}")
    depths = _depths(name.rpartition(".")[0] for _, name, *_ in found)
    return tuple(_site(*one, depth, lora, model_type, taken) for one, depth in zip(found, depths, strict=True))


def unmatched(lora: Lora, sites: Iterable[Site]) -> tuple[str, ...]:
    """The parameters a run names that none is called."""
    names = [f"{site.module}.{site.parameter}" for site in sites if site.parameter]
    return tuple(p for p in lora.parameters if not any(f".{sample(name)}".endswith(f".{p}") for name in names))


def _family(model_type: str) -> dict[str, Any] | None:
    families = find("adapters", "fused-experts")["families"].values()
    return next((family for family in families if model_type in family["types"]), None)


def _leaves(
    lora: Lora, asked: str, renamed: Mapping[str, str], modules: Mapping[str, Module], heads: Iterable[str]
) -> tuple[str, ...]:
    """Last parts of the names that a text targets, those of the former experts among them."""
    if asked.lower() == ALL_LINEAR:
        linear = [m.name for m in modules.values() if m.kind in ("linear", "conv1d") and m.name not in heads]
        return tuple(dict.fromkeys([*(name.rpartition(".")[2] for name in linear), *renamed]))
    rule = rule_of(replace(lora, layers=None), asked)
    parameters = [t.name for m in modules.values() for t in m.tensors]
    found = [name.rpartition(".")[2] for name in (*modules, *parameters) if _any(rule, name)]
    former = [
        old for old, new in renamed.items()
        if any(_any(rule, f"{name.rpartition('.')[0]}.{old}") for name in parameters if name.rpartition(".")[2] == new)
    ]  # fmt: skip
    return tuple(dict.fromkeys([*found, *former]))


def _any(rule: Rule, pattern: str) -> bool:
    return any(rule.chooses(name) for name in expand(pattern))


def _select(endings: tuple[str, ...], rule: Rule, tensor: Tensor) -> tuple[tuple[str, int, int], ...]:
    """(pattern, count, rank) of those of like tensors that are named so."""

    def choice(name: str) -> int | None:
        return rule.rank_of(name) if name in endings or name.endswith(tuple(f".{e}" for e in endings)) else None

    crossed = any(crosses(tensor.name, f".{ending}") for ending in endings)
    if choice(sample(tensor.name)) is None and not crossed:
        return ()
    return chosen(tensor.name, tensor.count, choice, alike=not crossed and rule.uniform(tensor.name))


def _depths(modules: Iterable[str]) -> list[int]:
    """How many wrappers lie around each of the parameters of one module: the last wrapped is the outermost."""
    names = list(modules)
    return [names[i + 1 :].count(name) for i, name in enumerate(names)]


def _site(
    tensor: Tensor, name: str, count: int, rank: int, depth: int, lora: Lora, model_type: str, taken: set[str]
) -> Site:
    module, _, parameter = name.rpartition(".")
    if tensor.module in taken:
        raise fault("lora.parameters", f"{sample(name)} belongs to a module that `targets` adapts already")
    if lora.dora or lora.lora_bias:
        raise fault("lora.parameters", "LoRA on parameters goes with neither dora nor lora_bias")
    if len(tensor.shape) not in (2, 3):
        raise fault(
            "lora.parameters", f"{sample(name)} has shape {tensor.shape}; only 2-D and 3-D parameters are supported"
        )
    *experts, outputs, inputs = tensor.shape
    if experts and model_type in find("adapters", "fused-experts")["transposed"]:
        inputs, outputs = outputs, inputs
    return Site(module, count, tensor.role, inputs, outputs, rank, parameter=parameter,
                experts=experts[0] if experts else 1, depth=depth)  # fmt: skip
