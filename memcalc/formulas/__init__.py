"""Formulas that frameworks publish for the memory of a run: named modes, exact to their integers.

They are what the frameworks' own estimators print, not what memcalc says: `--formula NAME` shows one beside memcalc's
answer. One module per name, with a function `formula(plan)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from memcalc.errors import UsageError, nearest_names

if TYPE_CHECKING:
    from memcalc.plan import Plan
    from memcalc.report import FormulaPart

FORMULAS = ("deepspeed", "megatron")


def formula(name: str, plan: Plan) -> FormulaPart:
    """What the published formula of that name says of a plan.

    UsageError where there is no such formula, RunInvalid where it says nothing of such a run.
    """
    if name not in FORMULAS:
        near = nearest_names(name, FORMULAS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown formula {name!r}; {hint}there are {', '.join(FORMULAS)}")
    answer: FormulaPart = import_module(f"memcalc.formulas.{name}").formula(plan)
    return answer
