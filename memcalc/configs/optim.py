"""An optimizer as a foreign config writes it: a name or a class path, with arguments, as a run's `optimizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.errors import UnknownName
from memcalc.optimizers import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

_SWITCHES: Final = ("fused", "foreach")  # of torch.optim, which choose the implementation


def put_optimizer(
    sheet: Sheet, name: str, arguments: Mapping[str, Any], *theirs: str, default: str = "", in_backward: bool = False
) -> None:
    """Set `optimizer`; of its arguments those that change what is kept. A fault where there is no such optimizer.

    `in_backward`: each gradient is used and freed as soon as it is there.
    """
    try:
        known = resolve(name).options
    except UnknownName as error:
        sheet.fault(sheet.named(*theirs), str(error))
        return
    spec = {"name": name, **{key: value for key, value in arguments.items() if key in known and value is not None}}
    chosen = next((switch for switch in _SWITCHES if arguments.get(switch) is True), None)
    if chosen and name.startswith("torch.optim."):
        spec["implementation"] = chosen
    if in_backward:
        spec["in_backward"] = True
    sheet.put("optimizer", spec if len(spec) > 1 else name, *theirs, default=default)
