"""apply: a base model's tensors and a `lora` section make frozen base, adapters, copies and buffers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.adapters import cards, copies, experts, prompts, spectral, targets
from memcalc.adapters.methods import BUILDERS, SHARED
from memcalc.adapters.patterns import chosen, parents, sample
from memcalc.adapters.result import Adapted
from memcalc.adapters.sites import modules_of, output_embedding, vocabulary
from memcalc.adapters.spec import PROMPTS, VIRTUAL_TOKENS, contradictions
from memcalc.errors import RunInvalid, fault
from memcalc.tensors import Tensor, expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcalc.adapters.parts import Part
    from memcalc.adapters.sites import Module, Site
    from memcalc.adapters.spec import Lora
    from memcalc.dimensions import Dimensions

# the task that a model's class is trained for, and the modules that peft's class for the task always saves
TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS",
         "ForQuestionAnswering": "QUESTION_ANS", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}  # fmt: skip
TASK_MODULES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
WITHOUT_SITES = ("trainable-tokens", "adaption-prompt")
SIXTEEN_BIT = ("bf16", "fp16", "quantized")


def apply(
    tensors: tuple[Tensor, ...], lora: Lora, model_type: str, dimensions: Dimensions | None, base_dtype: str
) -> Adapted:
    """See memcalc.adapters.adapt."""
    faults = [*contradictions(lora), *cards.faults(lora)]
    if faults:
        raise RunInvalid(faults)
    lora = cards.completed(lora)
    task = lora.task or task_of(dimensions)
    run = replace(lora, save_modules=tuple(dict.fromkeys((*lora.save_modules, *TASK_MODULES.get(task, ())))))
    modules = modules_of(tensors)
    vocab = vocabulary(modules, dimensions)
    copied = copies.saved_copies(run.save_modules, tensors, tied=run.tie_saved)
    if run.method == "ln-tuning":
        sites: tuple[Site, ...] = ()
        copied += _ln_copies(run, model_type, tensors)
    elif run.method in (*PROMPTS, *WITHOUT_SITES):
        sites = ()
    else:
        sites = _sites(run, tensors, modules, model_type, _heads(modules, _logits(vocab, dimensions), task))
    made = _adapters(
        run, sites, dimensions, task, base_dtype, frozenset(t.module for t in tensors if t.idle or t.unrun)
    )
    if run.method == "adaption-prompt":
        made += prompts.adaption_prompts(run, model_type, modules, base_dtype)
    if run.token_indices is not None:
        made += _token_rows(run, modules, vocab, base_dtype)
    own = "" if base_dtype == "quantized" else base_dtype
    return Adapted(
        base=tuple(part for t in tensors for part in _base(t, run, sites, own)),
        adapters=tuple(t for t in made if not t.buffer),
        saved=tuple(replace(t, dtype=t.dtype or own) for t in copied),
        buffers=tuple(t for t in made if t.buffer),
        sites=sites,
        notes=tuple(_notes(lora, model_type, task, copied)),
        warnings=tuple(_warnings(lora, model_type, tensors, sites)),
        followed=cards.card(lora.method).get("followed", True),
    )


def task_of(dimensions: Dimensions | None) -> str:
    """The task that the class of the model is for, where peft has a class of its own for it; else ''."""
    names = dimensions.get("architectures") if dimensions is not None else None
    name = str(names[0]) if names else ""
    task = next((task for ending, task in TASKS.items() if name.endswith(ending)), "")
    if task == "SEQ_2_SEQ_LM" and not (dimensions is not None and dimensions.get("is_encoder_decoder")):
        return ""
    return task


def adapter_dtype(lora: Lora, base_dtype: str) -> str:
    """The adapters' dtype: as asked; else fp32, whatever 16-bit or packed dtype the base has (autocast_adapter_dtype)."""
    return lora.dtype or ("fp64" if base_dtype == "fp64" else "fp32")


def _logits(vocab: int, dimensions: Dimensions | None) -> int:
    """How many logits the output embedding yields; 0 for a ForCTC class, which names none."""
    names = dimensions.get("architectures") if dimensions is not None else None
    return 0 if names and str(names[0]).endswith("ForCTC") else vocab


def _heads(modules: Mapping[str, Module], vocab: int, task: str) -> tuple[str, ...]:
    """The modules that all-linear leaves out: the output embedding, or the head of a classifier."""
    head = output_embedding(modules, vocab)
    if head or task != "SEQ_CLS":
        return (head,)
    return targets.CLASSIFIERS


def _sites(
    run: Lora, tensors: tuple[Tensor, ...], modules: Mapping[str, Module], model_type: str, heads: tuple[str, ...]
) -> tuple[Site, ...]:
    if any(module.kind == "expert" for module in modules.values()):
        run = experts.on_experts(run, model_type, modules, heads)
    rule = targets.rule_of(run, targets.targets_of(run, model_type, modules.values()))
    found = targets.module_sites(run, rule, modules, heads)
    if run.method == "ia3":
        words = run.feedforward if run.feedforward is not None else targets.feedforward_of(model_type)
        return tuple(targets.feedforward_sites(found, words))
    sizes = spectral.proportional(found, run)
    if sizes:
        return tuple(replace(site, rank=sizes[site.module]) for site in found)
    if run.parameters:
        found += experts.parameter_sites(run, rule, tensors, model_type, {site.module for site in found})
    targets.check_compatible(run.method, model_type, found)
    return found


def _ln_copies(run: Lora, model_type: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    rule = targets.rule_of(run, targets.targets_of(run, model_type))
    found = copies.ln_copies(rule, tensors)
    if not found:
        raise fault("lora.targets", targets.not_found(rule, modules_of(tensors)))
    return found


def _adapters(
    run: Lora,
    sites: tuple[Site, ...],
    dimensions: Dimensions | None,
    task: str,
    base_dtype: str,
    idle: frozenset[str],
) -> tuple[Tensor, ...]:
    """The tensors that the method adds, on the sites and once for all of them; on an `idle` module none gets a gradient."""
    dtype, revive = adapter_dtype(run, base_dtype), base_dtype in SIXTEEN_BIT
    own = "fp32" if base_dtype == "quantized" else base_dtype
    once: Iterable[Part] = ()
    if run.method in PROMPTS:
        once, dtype = prompts.prompt_parts(run, dimensions, task), "fp32"
    elif run.method in SHARED:
        once = SHARED[run.method](sites, run)
    on_sites = ((part, site.module, site.count) for site in sites for part in BUILDERS[run.method](site, run))
    return tuple(
        Tensor(
            f"{module}.{part.name}" if module else part.name, part.shape, count, "adapter",
            part.trainable or (part.revived and revive), buffer=part.buffer,
            dtype=own if part.dtype == "base" else part.dtype or dtype, idle=module in idle,
        )
        for part, module, count in (*on_sites, *((part, "", 1) for part in once))
    )  # fmt: skip


def _token_rows(run: Lora, modules: Mapping[str, Module], vocab: int, base_dtype: str) -> tuple[Tensor, ...]:
    """Trained rows of embeddings, beside an adapter or alone."""
    place = "" if run.method == "trainable-tokens" else "token_adapter."
    made = copies.token_rows(run.token_indices or (), modules, vocab, place)
    return tuple(replace(tensor, dtype=adapter_dtype(run, base_dtype)) for tensor in made)


def _base(tensor: Tensor, run: Lora, sites: tuple[Site, ...], dtype: str) -> Iterator[Tensor]:
    """A tensor of the base: frozen, but for biases that the run trains (_mark_only_adapters_as_trainable)."""
    if run.bias == "none" or tensor.buffer or not tensor.name.endswith("bias"):
        yield replace(tensor, trainable=False)
        return
    for pattern, count, trained in _bias_groups(tensor, run, sites):
        own = tensor.dtype or (dtype if trained else "")
        yield replace(tensor, name=pattern, count=count, trainable=trained, dtype=own)


def _bias_groups(tensor: Tensor, run: Lora, sites: tuple[Site, ...]) -> Iterable[tuple[str, int, bool]]:
    module = tensor.module
    if tensor.name.rpartition(".")[2] != "bias" or _saved(module, run.save_modules):
        return ((tensor.name, tensor.count, False),)
    if run.bias == "all":
        return ((tensor.name, tensor.count, True),)
    adapted = {site.module for site in sites if not site.parameter}
    if module in adapted or not any(sample(module) == sample(a) or "{" in module for a in adapted):
        return ((tensor.name, tensor.count, module in adapted),)
    names = {name for pattern in adapted for name in expand(pattern)}
    return chosen(tensor.name, tensor.count, lambda name: name.rpartition(".")[0] in names, alike=False)


def _saved(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module is trained as a copy: its original stays frozen."""
    return bool(names) and any(sample(outer).endswith(names) for outer in (*parents(module), module))


def _notes(lora: Lora, model_type: str, task: str, copied: tuple[Tensor, ...]) -> Iterator[str]:
    """What was assumed, in sentences."""
    if lora.dtype is None:
        yield "adapters are kept in fp32, as peft does beside a 16-bit or quantised base (autocast_adapter_dtype)"
    if lora.targets is None and lora.method not in (*PROMPTS, *WITHOUT_SITES) and not lora.parameters:
        theirs = targets.scripts_choice(lora.method, model_type) is not None
        chosen = (
            "those of diffusers' script that trains adapters of it"
            if theirs
            else "peft's default for this type of model"
        )
        yield f"the targets are {chosen}"
    if lora.method in PROMPTS and lora.virtual_tokens is None and lora.method != "cpt":
        yield f"{VIRTUAL_TOKENS} virtual tokens"
    if lora.task is None and task in TASK_MODULES and copied:
        names = ", ".join(dict.fromkeys(t.name.partition(".modules_to_save.")[0] for t in copied))
        yield f"the task is {task}, so peft trains {names} as a full copy; `task: none` trains adapters alone"
    if lora.method == "adalora":
        yield "AdaLoRA's moving averages of importance (3 values per adapter weight, once update_and_allocate runs) are left out"


def _warnings(lora: Lora, model_type: str, tensors: tuple[Tensor, ...], sites: tuple[Site, ...]) -> Iterator[str]:
    """What is likely not meant."""
    if experts.lost(lora, model_type):
        yield (f"peft 0.21 loses its own choice of targets for {model_type} and refuses; counted is that choice "
               f"({', '.join(targets.targets_of(lora, model_type))}): name `targets`")  # fmt: skip
    for name in copies.missing(lora.save_modules, tensors):
        yield f"save_modules: no module is named {name}; peft trains nothing for it"
    if isinstance(lora.targets, tuple) and sites and not any(site.parameter for site in sites):
        for name in targets.unmatched(lora.targets, sites):
            yield f"targets: no module is named {name}; peft adapts only the others"
    for name in experts.unmatched(lora, sites):
        yield f"parameters: no parameter is named {name}; peft adapts only the others"
    if lora.method == "adalora" and lora.rank is not None:
        yield "AdaLoRA ignores `rank`; its first rank is `init_rank` (12 if absent)"
    if lora.method in PROMPTS and lora.dtype not in (None, "fp32"):
        yield f"peft keeps virtual tokens in fp32; dtype {lora.dtype} is not used"
    if lora.dropout and any(site.parameter for site in sites):
        yield "peft refuses dropout on parameters (stacked experts): set `dropout: 0`"
