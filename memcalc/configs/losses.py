"""The loss of a trainer that takes its own outside of the model: of preferences, of smoothed labels; and its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.words import number

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

SHARED: Final[dict[str, Any]] = {"role": "reference", "shared": True}  # the policy, its adapters switched off
# of TRL's trainers: those with a fused head (trl 1.16, trainer/utils.py, add_fused_lm_head), and those with whole logits
_TRL: Final[dict[str, Any]] = {
    "sft": "fused-log-probs", "dpo": "fused-log-probs", "ipo": "fused-log-probs", "kto": "fused-log-probs",
    "grpo": "fused-log-probs", "rloo": "fused-log-probs", "ppo": "log-probs", "orpo": {"kind": "log-probs", "nll": True},
    "cpo": {"kind": "log-probs", "nll": True}, "simpo": {"kind": "log-probs", "nll": True}, "gkd": "distillation",
    "distillation": "fused-log-probs",  # of the student; the teacher's are taken in the same tiles
}  # fmt: skip


def of_trl(sheet: Sheet, task: str, *keys: str) -> None:
    """Set `loss` as the trainer of a task takes it; CPO without its `cpo_alpha` has no cross entropy."""
    loss = _TRL.get(task)
    if loss is None:
        return
    if task in ("cpo", "simpo") and sheet.read(number, "cpo_alpha", default=1.0) == 0:
        loss = "log-probs"
    sheet.put("loss", loss, *keys, default=f"trl/trainer/{task}_trainer.py")


def smoothing(sheet: Sheet) -> None:
    """Set `loss` where the Trainer smooths its labels: from whole logits, whatever kernels there are (trainer.py)."""
    if sheet.read(number, "label_smoothing_factor", default=0.0):
        sheet.put("loss", "label-smoothing", "label_smoothing_factor")
