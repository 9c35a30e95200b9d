"""What encoders and sequence-to-sequence models add: two sequences, fixed positions, several heads."""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.base import Block, Param, Sequence
from memcalc.blocks.basic import Embedding, Linear, Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Encoder(Sequence):
    """Reads the source; what it yields is what cross attention reads.

    `source` is the shape of one source, where it is not `seq_len` tokens: (80, 3000) for Whisper's 30 s of mel frames;
    a 0 in it stands for `seq_len`.
    """

    duty: ClassVar[str] = "encoder"

    source: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoder(Sequence):
    """Reads the target (`target_len` tokens), and the encoder's result where an Attention is `cross`.

    `channels` are how many tokens stand at each place of the target; several are given to the model, not made of labels.
    """

    duty: ClassVar[str] = "decoder"

    channels: int = 1


@dataclass(frozen=True, slots=True)
class Aside(Sequence):
    """Modules whose result is an output of the model that nothing reads, as a pooler's within an encoder."""

    idle: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Bridge(Sequence):
    """What becomes of the encoder's states before the decoder reads them."""


@dataclass(frozen=True, slots=True)
class Surrounded(Sequence):
    """A block, layers and what comes behind them; masks are made of what it is given, before the first of them runs.

    What the layers are given goes with the first that has read it: nobody else has a name for it (RemBERT, wav2vec 2.0).
    """


@dataclass(frozen=True, slots=True)
class Shared(Embedding):
    """A table that encoder and decoder read under names of their own, tied to it; nothing reads it by this name."""


@dataclass(frozen=True, slots=True)
class Sinusoids(Block):
    """Fixed sinusoidal positions [rows, width], added to the tokens; no parameter and no persistent buffer.

    `shared` where every sequence reads the same rows; `formula` whose forward adds them, if it is not a residual.
    """

    rows: int = 0
    width: int = 0
    shared: bool = False
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Fork(Block):
    """Branches that each read the same input and each yield an output of the model (BERT's two pre-training heads)."""

    duty: ClassVar[str] = "fork"

    branches: tuple[Block, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.branches


@dataclass(frozen=True, slots=True)
class HalfClamp(Block):
    """In fp16, values clamped to what the dtype holds.

    To numbers; or to tensors without axes that depend on whether some are infinite (T5); or only a look whether all are
    finite (BART).
    """

    how: Literal["clamp", "tensors", "look"] = "clamp"


@dataclass(frozen=True, slots=True)
class Unembed(Linear):
    """x Eᵀ + b with the embedding's own weight E, so without a tensor of its own but the bias."""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("bias", (self.outputs,)),) if self.bias else ()


@dataclass(frozen=True, slots=True)
class LogitsBias(Raw):
    """A fixed row [1, vocab] added to the logits (BART's final_logits_bias): a new value of their size."""
