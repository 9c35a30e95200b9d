"""Model: blocks with a name and a kind; what an architecture makes of dimensions."""

from __future__ import annotations

from dataclasses import field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from memcalc.blocks.base import Stack
from memcalc.blocks.mlp import Experts, Moe
from memcalc.dataclass import dataclass
from memcalc.tensors import Tensor, listed, parameter_count, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions

Kind = Literal[
    "causal-lm", "masked-lm", "seq2seq", "encoder", "classifier", "image", "segmentation", "masked-image", "image-autoencoder",
    "detection", "image-text", "speech", "diffusion", "tensors"
]  # fmt: skip
# kinds of models that read images and nothing else
OF_IMAGES = frozenset({"image", "segmentation", "masked-image", "image-autoencoder", "detection"})


@dataclass(frozen=True)
class Model:
    """A model as its blocks in the order they run, and what the tape needs to know of its inputs.

    `context` is the longest sequence its positions allow (0: no limit known). `tables` are tensors listed without
    blocks (a nominal size, a preset's raw tensors). `nominal` marks a bare size, whose shapes are made up.
    `loss_fp32` where the loss reads an fp32 copy of the logits (transformers' loss functions), not the logits as they
    are (BERT, T5, BART).
    `image` is one input image or latent: (channels, height, width), or (channels, frames, height, width) of a video.
    `scale` is how many pixels a side, and frames, a latent one stands for.
    `text` is how many tokens of text a denoiser's pipeline gives it; `edits` where it may see images beside the one it makes.
    `checkpoints` where the library's class supports activation checkpointing.
    `unread` names the part whose steps are not known, and so not counted.
    `z_loss` where the loss adds the squares of every token's log-sum-exp, so that logits stay small.
    `masks` are the windows (0: all tokens) of masks that it makes whether any of its layers has them or not.
    `choices` is how many sequences there are of each in a batch, one of which is to be chosen.
    `tp_plan` says how transformers' own tensor parallelism divides `attention` (by heads) and `mlp` (by its inner width):
    one may be `whole` on every rank, or have linears that are divided and outputs that are `gathered`; so may `experts` and
    the `table` of tokens be `whole`. Empty: not known.
    `objects` is how many of them an image is taken to have, where the loss holds a mask of each against what is found.
    `rate` is how many inputs of a sequence make a second of sound: samples of a waveform, or frames; 0 where it is of tokens.
    `problem` is what a classifier of sequences, images or sound is asked for, where that is no class: a `regression`, or
    `multi-label`; then `labels` is how many numbers each has for a label.
    `registered` names modules whose parents register them in another order than they run: in that order, behind the others.
    Where there are none, parameters of a module itself still come first, unless it is None: then all come as they run.
    `units` are the modules that FSDP wraps where a model has stages of layers (the class' _no_split_modules, which accelerate
    goes by).
    """

    body: Block
    kind: Kind = "causal-lm"
    context: int = 0
    name: str = ""
    architecture: str = ""
    dimensions: Dimensions | None = None
    tables: tuple[Tensor, ...] = ()
    loss_fp32: bool = True
    nominal: bool = False
    notes: tuple[str, ...] = field(default=())
    image: tuple[int, ...] = ()
    text: int = 0
    edits: bool = False
    checkpoints: bool = True
    scale: tuple[int, int] = (1, 1)
    unread: str = ""
    choices: int = 1
    registered: tuple[str, ...] | None = None
    tp_plan: tuple[tuple[str, str], ...] = ()
    masks: tuple[int, ...] = ()
    z_loss: bool = False
    problem: Literal["", "regression", "multi-label"] = ""
    labels: int = 0
    rate: int = 0
    objects: int = 0
    units: Literal["layers", "stages", "stages+layers"] = "layers"

    @property
    def latent(self) -> tuple[int, ...]:
        """(height, width) of one input latent."""
        return self.image[-2:]

    @property
    def latent_frames(self) -> int:
        """Frames of one input latent."""
        return self.image[-3] if len(self.image) == 4 else 1

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the model, like ones grouped; in the order in which its parameters are listed."""
        found = tensors(self.body)
        return (found if self.registered is None else listed(found, self.registered)) + self.tables

    def called(self, name: str, architecture: str) -> Model:
        """The same model under a name; its tensors, where they are listed already, are not listed again."""
        renamed = replace(self, name=name, architecture=architecture)
        if "tensors" in self.__dict__:
            renamed.__dict__["tensors"] = self.tensors
        return renamed

    @cached_property
    def depth(self) -> int:
        """How many layers the longest of its stacks has."""
        return _depth(self.body)

    @cached_property
    def duties(self) -> dict[str, list[Block]]:
        """The distinct blocks that others look for, in order, by what they are looked for as (Block.duty)."""
        found: dict[str, list[Block]] = {}
        for block in _blocks(self.body):
            if block.duty:
                found.setdefault(block.duty, []).append(block)
        return found

    @cached_property
    def parameters(self) -> int:
        """Unique parameters: tied tensors counted once, buffers not at all."""
        return parameter_count(self.tensors)

    @cached_property
    def active(self) -> int:
        """Parameters that a token meets: all but the experts it is not sent to (embeddings and head included)."""
        return self.parameters - _idle(self.body)


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for _, part in block.groups():
        yield from _blocks(part)


def _depth(block: Block) -> int:
    own = len(block.layers) if isinstance(block, Stack) else 0
    return max(own, *(_depth(part) for _, part in block.groups()), 0)


def _idle(block: Block) -> int:
    if isinstance(block, Moe) and block.experts:
        inside = parameter_count(tensors(block.experts))
        experts = block.experts.experts if isinstance(block.experts, Experts) else len(block.experts.parts())
        return inside - inside * min(block.top_k, experts) // experts
    return sum((len(indices) if indices else 1) * _idle(part) for indices, part in block.groups())
