"""Which head a config's class asks for, and the small heads that most encoders share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from memcalc.blocks.base import Block, Sequence, Stray, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Norm, Raw, Select
from memcalc.errors import fault
from memcalc.model import Kind, Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.dimensions import Dimensions

    Heads = Mapping[str, tuple[Block, ...]]

_TASK = re.compile(r"(For[A-Z]\w*|WithLMHeadModel|LMHeadModel|MTModel|EncoderModel|BaseModel|Model|Encoder|Decoder)$")
_OF_ANY_PROBLEM = tuple(f"For{name}Classification" for name in ("Sequence", "Image", "Video", "Audio"))
_PROBLEMS: dict[str, Literal["", "regression", "multi-label"]] = {
    "single_label_classification": "", "regression": "regression", "multi_label_classification": "multi-label",
}  # fmt: skip
_KINDS: dict[str, Kind] = {
    "ForMaskedLM": "masked-lm",
    "ForPreTraining": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForConditionalGeneration": "seq2seq",
    "WithLMHeadModel": "seq2seq",
    "MTModel": "seq2seq",
}


def task(c: Dimensions) -> str:
    """What the config's class ends in: 'ForMaskedLM' of BertForMaskedLM; 'Model' for the bare base model."""
    found = _TASK.search(str((c.get("architectures") or ["Model"])[0]))
    return found[1] if found else "Model"


def labels(c: Dimensions, default: int = 2) -> int:
    """Labels of a classifier: `num_labels`, else the entries of `id2label`, else `default` (configuration_utils.py)."""
    named = c.get("id2label")
    return int(c.get("num_labels", default if named is None else len(named)))


def problem(c: Dimensions) -> Literal["", "regression", "multi-label"]:
    """What the loss of a classifier takes its logits for, by `problem_type`; else by the labels (ForSequenceClassificationLoss)."""
    named = c.get("problem_type") if task(c) in _OF_ANY_PROBLEM else "single_label_classification"
    if named is None:
        return "regression" if labels(c) == 1 else ""
    if named not in _PROBLEMS:
        raise fault("model.problem_type", f"{named!r} is none of {', '.join(_PROBLEMS)}")
    return _PROBLEMS[named]


def choices(c: Dimensions) -> int:
    """Choices of each question: two, where the config does not say `num_choices`."""
    return int(c.get("num_choices") or 2)


def channels(width: int, heads: int, key: str = "num_attention_heads") -> int:
    """Channels of each of `heads` heads; RunInvalid where they do not divide `width`, as in the library's classes."""
    if heads < 1 or width % heads:
        raise fault(f"model.{key}", f"{heads} heads do not divide a width of {width}")
    return width // heads


def kind(name: str) -> Kind:
    """The kind of model that a task makes."""
    return _KINDS.get(name, "encoder" if name.endswith(("Model", "Encoder")) else "classifier")


def choose(c: Dimensions, heads: Heads) -> tuple[Block, ...]:
    """The blocks of the head that the config's class asks for; RunInvalid lists those there are."""
    name = task(c)
    if name not in heads:
        known = ", ".join(sorted({*heads, "Model"}))
        raise fault("model.architectures", f"a {c.model_type} with the head {name!r} is not known; known are: {known}")
    return heads[name]


def with_head(
    c: Dimensions,
    prefix: str,
    base: Sequence,
    heads: Heads,
    bare: tuple[Block, ...] = (),
    **more: Any,  # noqa: ANN401 - what Model takes
) -> Model:
    """The base model under `prefix` with the head of the config's class.

    `bare` is what the base model alone adds: a pooler, which the mean of the last hidden state goes past.

    The loss of encoders reads the logits as they are; that of a causal language model an fp32 copy.
    """
    more.setdefault("context", int(c.get("max_position_embeddings") or 0))
    more.setdefault("kind", kind(task(c)))
    more.setdefault("loss_fp32", more["kind"] == "causal-lm")
    if task(c) == "ForMultipleChoice":
        more.setdefault("choices", choices(c))
    if task(c) in {"Model", "BaseModel"}:
        return Model(sequence(*base.blocks, Stray("", bare) if bare else None), **more)
    return Model(sequence(Sequence(prefix, base.blocks), *choose(c, heads)), **more)


def classifier_dropout(c: Dimensions) -> Dropout:
    """The dropout in front of a classifier: `classifier_dropout`, else that of the hidden states."""
    own = c.get("classifier_dropout")
    return Dropout("", float(c.hidden_dropout_prob if own is None else own))


def pooler(c: Dimensions, name: str) -> Sequence:
    """tanh(dense(first token)) (BertPooler)."""
    return sequence(
        Select(""), Linear("dense", c.hidden_size, c.hidden_size, bias=True), Activation("", "tanh"), name=name
    )


def classification_head(
    c: Dimensions, dropout: Dropout, activation: str = "tanh", name: str = "classifier"
) -> Sequence:
    """out_proj(dropout(act(dense(dropout(first token))))) (RobertaClassificationHead)."""
    return sequence(
        Select(""), dropout, Linear("dense", c.hidden_size, c.hidden_size, bias=True), Activation("", activation),
        dropout, Linear("out_proj", c.hidden_size, labels(c), bias=True), name=name,
    )  # fmt: skip


def masked_lm(
    c: Dimensions,
    name: str,
    dense: str,
    norm: str,
    table: str,
    *,
    width: int = 0,
    activation: str = "gelu",
    owner: bool = False,
) -> Sequence:
    """decoder(norm(act(dense(x)))) + bias, over the vocabulary (BertLMPredictionHead).

    `table` names the embedding that shares the decoder's weight where the config ties them; the bias, listed once for
    the head and once for its decoder, is tied with it. `owner` where the library registers the head before the base
    model: then the embedding is the one that is listed as tied.
    """
    width, tie = width or c.hidden_size, bool(c.tie_word_embeddings)
    decoder = Linear(
        "decoder", width, c.vocab_size, bias=True,
        tied_to=table if tie and not owner else "", bias_tied_to=f"{name}.bias" if tie else "",
    )  # fmt: skip
    return sequence(
        Linear(dense, c.hidden_size, width, bias=True), Activation("", activation), Norm(norm, width, "layer"),
        Raw("bias", (c.vocab_size,)), decoder, name=name,
    )  # fmt: skip
