"""In which order a function's names let go when it returns: as they came, in every Python.

A tape's storages go with the last name (`tape.values`), and the allocator's replay tells which of two went first. Up to 3.13
CPython clears a frame from its first name to its last, as it did for the recorded steps; from 3.14 on from the last to the
first (Python/frame.c, _PyFrame_ClearLocals). There the modules whose names stand for tensors are compiled with a last
statement in each function that lets go of its names in their order; so its lines stay what they are.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator, Sequence
    from types import CodeType, ModuleType

PACKAGES = ("memcalc.tape.", "memcalc.sharding.")
REVERSED = sys.version_info >= (3, 14)

END = """
try:
    pass
except BaseException as stopped:
    __import__("memcalc.frames").frames.held(stopped, locals())
    raise
finally:
    {names} = None
"""

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


class Ordered(SourceFileLoader):
    """Loads a module whose functions let go of their names in order; what it compiles is cached beside Python's own."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]  # noqa: ANN401 - as its base has it
        """The code of a module."""
        return ordered(data, str(path), _optimize)

    def get_data(self, path: str) -> bytes:
        """A file's bytes."""
        return super().get_data(_own(path))

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:  # noqa: ANN401 - as its base has it
        """Write a file."""
        super().set_data(_own(path), data, _mode=_mode)


class Finder(PathFinder):
    """Finds the modules of those packages."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is, and what loads it."""
        spec = super().find_spec(fullname, path, target) if fullname.startswith(PACKAGES) else None
        if spec and spec.loader.__class__ is SourceFileLoader:
            spec.loader = Ordered(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Where frames are cleared from their end, load those packages' modules so that they are not."""
    if REVERSED and Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def ordered(source: bytes | str, path: str, optimize: int = -1) -> CodeType:
    """A module's code in which each function's last act is to let go of its names in the order of its frame's."""
    import ast  # noqa: PLC0415 - for what is not compiled yet

    tree = ast.parse(source, path)
    names = dict(_names(compile(tree, path, "exec", dont_inherit=True, optimize=optimize)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min((node.lineno, *(decorator.lineno for decorator in node.decorator_list)))
            _end(node, names.get((node.name, first), ()))
    return compile(tree, path, "exec", dont_inherit=True, optimize=optimize)


def _names(code: CodeType) -> Iterator[tuple[tuple[str, int], tuple[str, ...]]]:
    """The names of each function within, without those that another function within it may still read."""
    for inner in code.co_consts:
        if inner.__class__ is code.__class__:
            own = tuple(name for name in inner.co_varnames if name.isidentifier() and name not in inner.co_cellvars)
            yield (inner.co_name, inner.co_firstlineno), own
            yield from _names(inner)


def _end(function: Function, names: Sequence[str]) -> None:
    """try: what it does; finally: its names are None, one after the other. A single name has no order.

    An exception holds them until it is handled, as its frames would.
    """
    if len(names) < 2:
        return
    import ast  # noqa: PLC0415 - as above

    (whole,) = ast.parse(END.format(names=" = ".join(names))).body
    for part in ast.walk(whole):
        ast.copy_location(part, function.body[-1])
    text = ast.get_docstring(function, clean=False) is not None
    body = function.body[text:]
    if body and isinstance(whole, ast.Try):
        function.body[text:], whole.body = [whole], body


def held(stop: BaseException, names: dict[str, object]) -> None:
    """Let an exception hold what a function's names stand for: it lets go of the innermost function's first, as they came."""
    known = stop.__dict__.setdefault("held", [])
    known[:0] = [value for value in reversed(names.values()) if value is not stop]  # a list is cleared from its end
    names.clear()  # which a frame before 3.13 keeps


def _own(path: str) -> str:
    return f"{path[:-4]}.ordered.pyc" if path.endswith(".pyc") else path
