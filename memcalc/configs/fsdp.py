"""PyTorch's FSDP as accelerate and the Hugging Face Trainer configure it, in the options of the run's `sharding`.

accelerate/utils/dataclasses.py (FullyShardedDataParallelPlugin) holds the keys and their defaults; with or without the
prefix `fsdp_` they mean the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.words import names, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

SOURCE: Final = "accelerate/utils/dataclasses.py, FullyShardedDataParallelPlugin"
STRATEGIES: Final = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
IGNORED: Final = tuple(f"*{name}" for name in (
    "state_dict_type", "sync_module_states", "cpu_ram_efficient_loading", "transformer_layer_cls_to_wrap", "xla*",
    "min_num_params", "transformer_cls_names_to_wrap", "final_state_dict_type",
))  # fmt: skip
_FLAGS: Final = ("forward_prefetch", "limit_all_gathers", "use_orig_params")


def attach(sheet: Sheet, at: str = "fsdp_config", words: tuple[str, ...] = (), version: int = 1, nodes: int = 1,
           wraps: bool = False, carves: bool = True) -> None:  # fmt: skip
    """Set `sharding` from the section `at` (dotted; '' for the whole document) and the Trainer's `fsdp: "full_shard"` words.

    `version` and `wraps` are what the section's reader takes FSDP's version and its wrapping to be where nothing says so;
    `carves` whether FSDP2 makes units of the embedding and of the tail, as accelerate's own preparation does.
    The precision is left to the caller: FSDP holds what mixed precision trains in fp32.
    """
    section = _Section(sheet, at)
    number = section.read(whole, "fsdp_version", "version", default=version)
    strategy = _strategy(section, words, number)
    if strategy == "NO_SHARD":
        sheet.put("sharding.strategy", "ddp", section.key("sharding_strategy"))
        return
    hybrid = strategy.startswith("HYBRID")
    sheet.put(
        "sharding.strategy", "hsdp" if hybrid else "fsdp", section.key("sharding_strategy", "reshard_after_forward")
    )
    sheet.put("sharding.version", number, section.key("version"), default="" if section.has("version") else SOURCE)
    if hybrid:
        sheet.put("sharding.replicate", max(nodes, 1), "num_machines", default=f"{SOURCE}: one replica per machine")
    _resharding(section, strategy, number)
    _wrapping(section, words, wraps, carves)
    _offload(section, words)
    for name in _FLAGS:
        if section.has(name) and number == 1:
            sheet.put(f"sharding.{name}", section.read(truth, name), section.key(name))
        section.get(name)
    if section.has("backward_prefetch") and number == 1:
        sheet.put(
            "sharding.backward_prefetch",
            section.read(text, "backward_prefetch", default="").upper(),
            section.key("backward_prefetch"),
        )
    section.get("backward_prefetch")
    if section.read(truth, "activation_checkpointing", default=False):
        sheet.put("checkpointing", "full", section.key("activation_checkpointing"))
    if section.read(truth, "activation_checkpointing_offload", default=False):
        sheet.put("checkpointing", {"mode": "full", "offload": True}, section.key("activation_checkpointing_offload"))
    if section.get("ignored_modules"):
        sheet.warn(section.key("ignored_modules"), "not-modelled", "modules that FSDP ignores are counted as sharded")


class _Section:
    """The keys of one section, with or without `fsdp_`."""

    def __init__(self, sheet: Sheet, at: str) -> None:
        self.sheet, self.at = sheet, f"{at}." if at else ""

    def keys(self, *wanted: str) -> tuple[str, ...]:
        return tuple(f"{self.at}{prefix}{name}" for name in wanted for prefix in ("fsdp_", ""))

    def key(self, *wanted: str) -> str:
        return self.sheet.named(*self.keys(*wanted))

    def has(self, *wanted: str) -> bool:
        return self.sheet.has(*self.keys(*wanted))

    def get(self, *wanted: str) -> Any:  # noqa: ANN401
        return self.sheet.get(*self.keys(*wanted))

    def read(self, convert: Any, *wanted: str, default: Any = None) -> Any:  # noqa: ANN401
        return self.sheet.read(convert, *self.keys(*wanted), default=default)


def _strategy(section: _Section, words: tuple[str, ...], version: int) -> str:
    """FSDP1's word for what is sharded: from sharding_strategy (a word, or 1 to 5), the Trainer's words, the resharding."""
    written = section.read(text, "sharding_strategy", default="").upper()
    if written.isdigit() and 1 <= int(written) <= len(STRATEGIES):
        written = STRATEGIES[int(written) - 1]
    elif not written:
        written = next((word.upper() for word in words if word.upper() in STRATEGIES), "")
    again = section.read(text, "reshard_after_forward", default="").upper()
    if not written and version == 1 and again in STRATEGIES:
        written = again
    if written and written.lstrip("_") not in STRATEGIES:
        section.sheet.fault(section.key("sharding_strategy"), f"{written} is none of {', '.join(STRATEGIES)}")
    return written.lstrip("_") or "FULL_SHARD"


def _resharding(section: _Section, strategy: str, version: int) -> None:
    """Whether parameters are let go of after the forward pass; FSDP1 says it by its strategy."""
    sheet = section.sheet
    if version == 1:
        sheet.put("sharding.sharding_strategy", strategy, section.key("sharding_strategy"),
                  default="" if section.has("sharding_strategy") else SOURCE)  # fmt: skip
    elif section.has("reshard_after_forward"):
        value = section.get("reshard_after_forward")
        degree = (
            value
            if isinstance(value, int) and not isinstance(value, bool)
            else section.read(truth, "reshard_after_forward")
        )
        sheet.put("sharding.reshard_after_forward", degree, section.key("reshard_after_forward"))
    elif strategy in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2"):
        sheet.put("sharding.reshard_after_forward", False, section.key("sharding_strategy"))


def _wrapping(section: _Section, words: tuple[str, ...], wraps: bool, carves: bool) -> None:
    """What is gathered at once: a layer, or (NO_WRAP, accelerate's default) the whole model."""
    sheet, policy = section.sheet, section.read(text, "auto_wrap_policy", default="").upper()
    named = section.has("transformer_layer_cls_to_wrap", "transformer_cls_names_to_wrap")
    if policy == "SIZE_BASED_WRAP":
        sheet.assume("sharding", "size-based-wrap", "modules that are wrapped by their size are taken to be the layers")
    if (
        policy in ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP")
        or "auto_wrap" in words
        or (not policy and (named or wraps))
    ):
        # with FSDP2 the embedding, and the last norm with the head, are units of their own (fsdp2_prepare_model)
        units = "accelerate" if sheet.run["sharding"].get("version") == 2 and carves else "layers"
        sheet.put("sharding.wrap", units, section.key("auto_wrap_policy"), default="" if policy else SOURCE)
    else:
        sheet.put("sharding.wrap", "none", section.key("auto_wrap_policy"), default=f"{SOURCE}: NO_WRAP")


def _offload(section: _Section, words: tuple[str, ...]) -> None:
    value = section.get("offload_params", "cpu_offload")
    on = bool(value) if isinstance(value, dict) else section.read(truth, "offload_params", "cpu_offload", default=False)
    if on or "offload" in words:
        section.sheet.put("sharding.offload_params", True, section.key("offload_params", "cpu_offload"))


def words_of(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - text, a list, or a switch
    """The words of the Trainer's `fsdp`; () where it is off, ('full_shard',) where it is only on."""
    if value in (None, False, "", []) or (isinstance(value, str) and value.lower() in ("false", "no")):
        return ()
    if value is True or (isinstance(value, str) and value.lower() == "true"):
        return ("full_shard",)
    return tuple(word.lower() for word in names(value))
