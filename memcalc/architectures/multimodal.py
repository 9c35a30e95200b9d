"""Models of images and text: an image tower, a projector, and a language model that reads both."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import model_of
from memcalc.architectures.vision import class_name, labels, unknown_class
from memcalc.blocks.base import Block, Sequence, sequence
from memcalc.blocks.basic import Linear, Select
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


def tower(c: Dimensions, name: str) -> Sequence:
    """The bare base model of a nested config, under this name."""
    inner = model_of(c.but(architectures=["Model"]))
    return Sequence(name, _blocks(inner.body), registered=inner.registered)


def _blocks(body: Block) -> tuple[Block, ...]:
    return body.blocks if isinstance(body, Sequence) else (body,)


def under(name: str, body: Block) -> Sequence:
    """A whole model under a name: what is tied within it stays tied, by the longer names."""
    return Sequence(name, _blocks(_moved(body, f"{name}.", {})))


def _moved(block: Block, prefix: str, seen: dict[int, Block]) -> Block:
    """The block with `prefix` before the names its tensors are tied to; equal layers stay the same object."""
    if id(block) not in seen:
        given = [f.name for f in fields(block) if f.init]
        changes: dict[str, Any] = {name: _change(name, getattr(block, name), prefix, seen) for name in given}
        seen[id(block)] = replace(block, **changes)
    return seen[id(block)]


def _change(name: str, value: object, prefix: str, seen: dict[int, Block]) -> object:
    if isinstance(value, Block):
        return _moved(value, prefix, seen)
    if isinstance(value, tuple):
        return tuple(_change("", item, prefix, seen) for item in value)
    return f"{prefix}{value}" if name in ("tied_to", "bias_tied_to") and value else value


def tied(c: Dimensions) -> bool:
    """Whether head and embedding share memory; some older files say so in the text's config only."""
    return bool(c.get("tie_word_embeddings")) or bool(c.text_config.get("tie_word_embeddings"))


def image_text(
    c: Dimensions,
    images: Block,
    text: Sequence,
    *,
    tie: bool,
    extra: tuple[Block, ...] = (),
    logits: Block | None = None,
    loss_fp32: bool = True,
) -> Model:
    """`extra` tensors, the images and the text under `model`, and the head of the config's class.

    `logits` is what becomes of the head's output.

    A class that ends in ForCausalLM is the language model alone, with its own names.
    """
    name, t = class_name(c), c.text_config
    if name.endswith("ForCausalLM"):
        return model_of(t.but(architectures=[name], tie_word_embeddings=tie))
    base = sequence(*extra, images, text, name="model")
    context = int(t.get("max_position_embeddings") or 0)
    if name.endswith("ForConditionalGeneration"):
        source = f"model.{text.name}.embed_tokens.weight" if tie else ""
        head = Linear("lm_head", t.hidden_size, t.vocab_size, tied_to=source)
        return Model(sequence(base, head, logits), context=context, loss_fp32=loss_fp32)
    if name.endswith("ForSequenceClassification"):
        score = Linear("score", t.hidden_size, labels(c))
        return Model(sequence(base, score, Select("", "last")), "classifier", context)
    if not name.endswith("Model"):
        raise unknown_class(c)
    return Model(Sequence("", base.blocks), "encoder", context)
