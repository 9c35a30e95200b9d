"""Lora: the `lora:` section of a run, for LoRA and its kin; its words, its defaults, and what does not go together.

The words follow peft; where a key is shorter here, its docstring line names peft's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from memcalc.bounds import Ge, Le
from memcalc.dataclass import dataclass
from memcalc.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

Method = Literal[
    "lora", "dora", "adalora", "loha", "lokr", "ia3", "vera", "oft", "prompt", "prefix", "p-tuning", "ln-tuning",
    "boft", "hra", "road", "psoft", "beft", "fourierft", "waveft", "c3a", "shira", "supertuning", "frod", "hira", "deft",
    "glora", "peanut", "delora", "gralora", "osf", "poly", "miss", "randlora", "pvera", "vblora", "unilora", "tinylora",
    "lily", "trainable-tokens", "adaption-prompt", "cpt", "multitask-prompt", "cartridge",
]  # fmt: skip
Task = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "none"]
Size = Annotated[int, Ge(1), Le(10**9)]
Option = bool | int | float | str | None

RANKS: dict[str, int] = {"lora": 8, "dora": 8, "adalora": 12, "loha": 8, "lokr": 8, "vera": 256}  # peft's defaults
# methods that add virtual tokens and touch no module
PROMPTS = ("prompt", "prefix", "p-tuning", "cpt", "multitask-prompt", "cartridge")
BLOCK_SIZE, VIRTUAL_TOKENS, LSTM_LAYERS = 32, 20, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What is trained beside a frozen base model.

    `rank` None means the method's own default (8; VeRA 256); of FourierFT and WaveFT it is n_frequency, of C3A the block
    size, of OSF the effective rank. `options` are the other keys of the method in peft's words (presets/adapters).
    `targets` are module names or their endings, or one regular expression that matches whole names, or `all-linear`;
    None means peft's choice for the model type. `dtype` None means peft's rule: adapters in fp32. `layers`
    (layers_to_transform), `save_modules` (modules_to_save: trained as full copies, the frozen originals stay),
    `token_indices` (trainable_token_indices), `parameters` (target_parameters), `feedforward` (IA3's
    feedforward_modules), `task` None means what the model's class says.
    """

    method: Method = "lora"
    rank: Size | None = None
    targets: tuple[str, ...] | str | None = None
    exclude: tuple[str, ...] | str | None = None
    alpha: float | None = None
    dropout: Annotated[float, Ge(0), Le(1)] = 0.0
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    dora: bool = False
    rslora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    lora_bias: bool = False
    layers: tuple[int, ...] | int | None = None
    layers_pattern: tuple[str, ...] | str | None = None
    rank_pattern: Mapping[str, Size] = field(default_factory=dict)
    save_modules: tuple[str, ...] = ()
    tie_saved: bool = False
    token_indices: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None
    parameters: tuple[str, ...] = ()
    task: Task | None = None
    init_rank: Size | None = None
    target_rank: Size | None = None
    decompose_both: bool = False
    decompose_factor: int = -1
    effective_conv: bool = False
    feedforward: tuple[str, ...] | str | None = None
    block_size: Size | None = None
    block_share: bool = False
    virtual_tokens: Size | None = None
    projection: bool = False
    encoder: Literal["mlp", "lstm"] = "mlp"
    encoder_hidden_size: Size | None = None
    encoder_layers: Size | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def resolved_rank(self) -> int:
        """The rank used: AdaLoRA begins with `init_rank` (peft ignores its r); 0 where the method has none."""
        if self.method == "adalora":
            return self.init_rank or RANKS["adalora"]
        return self.rank or RANKS.get(self.method, 0)


def contradictions(lora: Lora) -> list[Fault]:
    """What peft's own config classes refuse, whatever the model."""
    return [Fault(f"lora.{key}", what) for key, what in (*_within(lora), *_beyond_the_method(lora))]


def _within(lora: Lora) -> Iterator[tuple[str, str]]:
    """Keys that do not go together."""
    if lora.rank is not None and lora.rank < 1:
        yield "rank", f"must be a positive number; it is {lora.rank}"
    if isinstance(lora.targets, str) and lora.layers is not None:
        yield "layers", "does not go with `targets` as one text (a regular expression or all-linear); list the names"
    if lora.layers_pattern and lora.layers is None:
        yield "layers_pattern", "needs `layers` too"
    if uses_dora(lora) and lora.lora_bias:
        yield "lora_bias", "does not go with DoRA"
    if lora.method == "oft" and lora.rank and lora.block_size:
        yield "block_size", "OFT takes `rank` (the number of blocks) or `block_size`, not both: one gives the other"


def _beyond_the_method(lora: Lora) -> Iterator[tuple[str, str]]:
    """Keys that the method does not have."""
    method = lora.method
    if lora.dora and method not in ("lora", "dora"):
        yield "dora", f"is a form of LoRA; {method} has none"
    if lora.bias != "none" and method in ("loha", "lokr", "ia3", "ln-tuning", *PROMPTS, "trainable-tokens"):
        yield "bias", f"{method} trains no biases"
    if lora.layers is not None and method in ("ia3", "ln-tuning", *PROMPTS):
        yield "layers", f"{method} has no choice of layers; name them in `targets`"
    if lora.exclude and method in ("vera", *PROMPTS):
        yield "exclude", f"{method} excludes nothing; name the `targets` instead"
    if method == "trainable-tokens" and lora.token_indices is None:
        yield "token_indices", "must name the tokens to train: [128000, 128001]"
    if lora.parameters and method != "lora":
        yield "parameters", f"only plain LoRA can target parameters; the method is {method}"


def uses_dora(lora: Lora) -> bool:
    """Whether magnitudes are trained beside A and B (Liu et al. 2024)."""
    return lora.dora or lora.method == "dora"
