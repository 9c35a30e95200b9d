"""Checkpoints that are stored packed, told by the end of their name where there is no config.json to ask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.presets import find
from memcalc.presets import has as known

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet


def packed(sheet: Sheet, *keys: str) -> bool:
    """Set `quantize` where the name of the model says that its weights are packed; whether it says so."""
    name = str(sheet.get(*keys) or "")
    if "quantize" in sheet.run or known("models", name.rpartition("/")[2]):
        return False
    rows = find("frameworks", "checkpoints")["ends"]
    row = next((row for row in rows if re.search(rf"(?:{row['name']})$", name, re.IGNORECASE)), None)
    if row is None:
        return False
    key = sheet.named(*keys)
    if "note" in row:
        sheet.warn(key, "not-modelled", row["note"])
    if row["quantize"] is None:
        return False
    sheet.put("quantize", row["quantize"], key)
    sheet.assume("quantize", "by-name", f"the weights are packed, as the end of {name} says")
    return True
