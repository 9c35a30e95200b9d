"""The modules everything is made of: linear, embedding, norm, convolution, a bare parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from memcalc.blocks.base import Block, Param
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

Index = Literal["tokens", "types", "positions", "token-positions", "distances"]
NormKind = Literal["rms", "rms-no-weight", "layer", "layer-no-bias", "group", "batch", "none"]


@dataclass(frozen=True, slots=True)
class Linear(Block):
    """y = x Wᵀ + b with weight [outputs, inputs] (nn.Linear); `tied_to` shares the weight of an embedding.

    `bias_tied_to` shares the bias (the masked-LM heads of BERT and kin).
    """

    role: ClassVar[str] = "linear"
    inputs: int = 0
    outputs: int = 0
    bias: bool = False
    tied_to: str = ""
    bias_tied_to: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        weight = Param("weight", (self.outputs, self.inputs), tied_to=self.tied_to)
        return (weight, Param("bias", (self.outputs,), tied_to=self.bias_tied_to)) if self.bias else (weight,)


@dataclass(frozen=True, slots=True)
class TransposedLinear(Linear):
    """GPT-2's Conv1D: a linear whose weight is stored [inputs, outputs] (transformers, pytorch_utils.Conv1D)."""

    role: ClassVar[str] = "conv1d"

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("weight", (self.inputs, self.outputs)), Param("bias", (self.outputs,)))


@dataclass(frozen=True, slots=True)
class ProductLinear(Linear):
    """A linear that is written as x @ W.T and, where it has a bias, a sum of its own (FalconLinear)."""


@dataclass(frozen=True, slots=True)
class ReadLinear(Linear):
    """A linear whose weight and bias a function reads, without calling the module (F.multi_head_attention_forward)."""

    unrun: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Embedding(Block):
    """A table [rows, width] read by index; `trainable` False for fixed (sinusoidal) tables that are parameters.

    `index` is what it is read by: token ids [batch, seq]; token types [batch, seq]; positions [1, seq], the same for
    every sequence; each token's own position [batch, seq] (RoBERTa); or the distances of all pairs [seq, seq] (T5).
    `scaled` multiplies what was read by √width, `scaled_outside` in the function that calls the table's module.
    """

    role: ClassVar[str] = "embedding"
    rows: int = 0
    width: int = 0
    trainable: bool = True
    tied_to: str = ""
    index: Index = "tokens"
    scaled: bool = False
    scaled_outside: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("weight", (self.rows, self.width), self.trainable, self.tied_to),)


@dataclass(frozen=True, slots=True)
class Norm(Block):
    """A normalisation over `width` channels.

    `formula` says whose forward it is, where several exist: '' (the kind's torch function, or for 'rms' the Llama
    one: fp32 inside, cast back, times weight), 'gemma' (fp32 throughout, times 1 + weight), 't5' (no cast back for
    fp32 weights), 'gpt_oss' (times weight, then cast back), 'mamba2' (times silu(gate) in fp32, then normalised in
    groups of `groups_of` channels), 'qwen3_next' (normalised, then times the activated gate in fp32), 'xlstm' …; the
    tape reads it. `heads` > 0 gives every head a weight of its own: [heads, width] (Cohere).
    """

    role: ClassVar[str] = "norm"
    width: int = 0
    kind: NormKind = "rms"
    formula: str = ""
    groups_of: int = 0
    heads: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(self._own())

    def _own(self) -> Iterator[Param]:
        if self.kind in ("none", "rms-no-weight"):
            return
        yield Param("weight", (self.heads, self.width) if self.heads else (self.width,))
        if self.kind in ("layer", "group", "batch"):
            yield Param("bias", (self.width,))
        if self.kind == "batch":
            yield Param("running_mean", (self.width,), buffer=True)
            yield Param("running_var", (self.width,), buffer=True)
            yield Param("num_batches_tracked", (), buffer=True, dtype="int64")


@dataclass(frozen=True, slots=True)
class Conv(Block):
    """A convolution with weight [outputs, inputs / groups, *kernel] over 1, 2 or 3 axes.

    `transposed` enlarges the map (nn.ConvTranspose2d): weight [inputs, outputs / groups, *kernel]. `embeds` where the
    library takes it for the input embedding, whose output adapters under checkpointing make ask for a gradient. `looked` is
    how many modules further out the one is whose forward looks at its weight before it runs (0: none does).
    """

    role: ClassVar[str] = "conv"
    inputs: int = 0
    outputs: int = 0
    kernel: tuple[int, ...] = (1,)
    stride: int | tuple[int, ...] = 1
    conv_groups: int = 1
    bias: bool = True
    padding: int | tuple[int, ...] = 0
    dilation: int = 1
    transposed: bool = False
    embeds: bool = False
    looked: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        first, second = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        weight = Param("weight", (first, second // self.conv_groups, *self.kernel))
        return (weight, Param("bias", (self.outputs,))) if self.bias else (weight,)


@dataclass(frozen=True, slots=True)
class Raw(Block):
    """A bare parameter or buffer of the module above it (a class token, a layer scale, A_log): `name` is its name."""

    shape: tuple[int, ...] = ()
    trainable: bool = True
    buffer: bool = False
    dtype: str = ""
    tied_to: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("", self.shape, self.trainable, self.tied_to, self.buffer, self.dtype),)


@dataclass(frozen=True, slots=True)
class Dropout(Block):
    """Dropout with probability p: no tensors, but a mask on the tape where p > 0; `functional` where it is no module."""

    p: float = 0.0
    functional: bool = False


@dataclass(frozen=True, slots=True)
class Idle(Block):
    """A module that is called and passes its input on (nn.Dropout with p = 0): only a strategy with hooks on all notices."""


@dataclass(frozen=True, slots=True)
class Activation(Block):
    """An activation function by the name its config gives it ('silu', 'gelu', 'gelu_new', 'relu2', 'tanh' …)."""

    function: str = "gelu"


@dataclass(frozen=True, slots=True)
class Cast(Block):
    """x.to(dtype): the logits of models whose head widens them itself (Mamba), or to the dtype weights are kept in."""

    to: Literal["fp32", "weights"] = "fp32"


@dataclass(frozen=True, slots=True)
class Scale(Block):
    """x times a constant (Gemma's embeddings, Granite's multipliers, Cohere's logits): no tensors, but a new value."""


@dataclass(frozen=True, slots=True)
class Softcap(Block):
    """cap * tanh(x / cap) (Gemma 2's logits): three values of x's size, of which autograd keeps the tanh.

    `wide` where x is cast to fp32 first (Beam); `nested` where it is one expression, beside x until that is there (RecurrentGemma).
    """

    cap: float = 0.0
    wide: bool = False
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Select(Block):
    """What a head reads of the tokens: the 'first' (class) token, the 'mean' of all, or 'first+mean', concatenated.

    The 'mean of rest' leaves the class token out. The 'last', or the 'end' of a text, is looked up.
    """

    what: Literal["first", "mean", "mean of rest", "first+mean", "last", "end"] = "first"
