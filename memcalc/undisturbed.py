"""Long computations without the garbage collector."""

from __future__ import annotations

import gc
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

GivenT = ParamSpec("GivenT")
FoundT = TypeVar("FoundT")


def undisturbed(function: Callable[GivenT, FoundT]) -> Callable[GivenT, FoundT]:
    """A function that makes many objects which go as nobody refers to them: the collector waits until it ends."""

    @wraps(function)
    def called(*given: GivenT.args, **named: GivenT.kwargs) -> FoundT:
        if not gc.isenabled():
            return function(*given, **named)
        gc.disable()
        try:
            return function(*given, **named)
        finally:
            gc.enable()

    return called
