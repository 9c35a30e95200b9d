"""The head that a trainer puts on the model that a config names: a reward model's one score instead of logits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.errors import MemcalcError
from memcalc.models import load_model
from memcalc.presets import has

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

_CAUSAL: Final = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")


def headed(sheet: Sheet, head: str, *keys: str, **more: Any) -> None:  # noqa: ANN401 - keys of a config.json
    """Give the run's model the head that transformers' class of that ending has, with `more` keys of its config.

    Where the model is one of the command line's, or the library has no such class, its own head is counted, and that said.
    """
    spec = sheet.run.get("model")
    made = _with(spec, head, more) if sheet.asked.model is None and isinstance(spec, str) else None
    if made is None:
        sheet.warn(sheet.named(*keys), "not-modelled", f"the model's own head is counted, whose logits take more than the "
                   f"{head} that is trained: give the model with `architectures` of that ending")  # fmt: skip
    else:
        sheet.put("model", made, *keys)


def scored(sheet: Sheet, *keys: str) -> None:
    """The model that a reward trainer makes: one score for each sequence."""
    headed(sheet, "ForSequenceClassification", *keys, num_labels=1)


def _with(spec: str, head: str, more: dict[str, Any]) -> dict[str, Any] | None:
    """The model's dimensions with another class; None where that can't be built."""
    try:
        model = load_model(spec)
        known = model.dimensions
        if known is None or not (stem := _CAUSAL.sub("", str((known.get("architectures") or [""])[0]))):
            return None
        given = {"preset": spec} if has("models", spec) else known.given()
        made = {**given, "architectures": [stem + head], **more}
        return made if load_model(made).kind == "classifier" else None
    except MemcalcError:
        return None
