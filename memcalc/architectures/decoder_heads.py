"""The heads of decoders: what the class named in a config.json puts on top of the base model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures.heads import labels, task
from memcalc.blocks.base import Block, Sequence, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Select
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

HEADS = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForRewardModel", "ForProcessRewardModel", "Model")  # fmt: skip


def headed(
    c: Dimensions,
    base: Sequence,
    lm_head: Block,
    *,
    width: int = 0,
    classifier: str = "score",
    scores: str = "score",
    qa: str = "transformer",
    qa_outputs: int = 2,
    reward: Block | None = None,
    **more: Any,  # noqa: ANN401 - fields of Model
) -> Model:
    """The base under the head that the config's class asks for; RunInvalid for a head that is none of HEADS.

    `width` is what the base puts out (default: hidden_size). `scores` and `classifier` are how the class names the linear
    of a sequence and of a token classifier, `qa` how it names the base below a question-answering head, which has
    `qa_outputs` (transformers, modeling_layers.py, Generic…). `reward` is a reward model's head where it isn't Qwen's.
    """
    head, width = _task(c), width or c.hidden_size
    more = {"context": int(c.get("max_position_embeddings") or 0), **more}
    if head in ("ForCausalLM", "LMHeadModel"):
        return Model(sequence(base, lm_head), **more)
    more["loss_fp32"] = head == "ForTokenClassification" and classifier == "score"
    if head == "Model":
        return Model(replace(base, name=""), **{**more, "kind": "encoder"})
    more["kind"] = "classifier"
    if head == "ForQuestionAnswering":
        return Model(sequence(replace(base, name=qa), Linear("qa_outputs", width, qa_outputs, bias=True)), **more)
    if head == "ForSequenceClassification":
        return Model(sequence(base, Linear(scores, width, labels(c)), Select("", "last")), **more)
    if reward and head == "ForRewardModel":
        return Model(sequence(base, reward, Select("", "last")), **more)
    return Model(sequence(base, *_classifier(c, head, width, classifier)), **more)


def _task(c: Dimensions) -> str:
    if not c.get("architectures"):
        return "ForCausalLM"
    head = task(c)
    if head not in HEADS or str(c.architectures[0]).endswith("DoubleHeadsModel"):
        known = ", ".join(HEADS)
        raise fault("model.architectures", f"the head of {c.architectures[0]} is not known; known are: {known}")
    return head


def _classifier(c: Dimensions, head: str, width: int, classifier: str) -> tuple[Block, ...]:
    """Every token's classes, or Qwen's two-layer reward (modeling_qwen2_rm.py beside its weights)."""
    if head == "ForTokenClassification":
        return (Dropout("", _dropout(c)), Linear(classifier, width, labels(c), bias=True))
    outputs = 1 if head == "ForRewardModel" else labels(c)
    first, last = Linear("0", width, width, bias=True), Linear("2", width, outputs, bias=True)
    return (Sequence("score", (first, Activation("", "relu"), last)),)


def _dropout(c: Dimensions) -> float:
    """GenericForTokenClassification: classifier_dropout, else hidden_dropout, else 0.1."""
    given = (c.get("classifier_dropout"), c.get("hidden_dropout"), 0.1)
    return float(next(p for p in given if p is not None))
