"""Arguments in a launch script, or in a list of them, as plain data; nothing is run.

A script's plain assignments are followed (`TP=2`, `HIDDEN=${HIDDEN:-4096}`, sums and products of numbers), and branches
that depend on them (`if [ $MODEL_SIZE = 7B ]`); the last assignment of a name counts. What only the shell knows (`$1`,
`$(nvidia-smi …)`) stays as it is written, and is a fault where a number is wanted. A later argument of the same name
wins, as argparse has it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from operator import add, floordiv, mul, sub
from typing import TYPE_CHECKING, Any, Final

from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.configs.documents import Document

MOST_LINES: Final = 20_000
LONGEST: Final = 2_000  # characters of a line that are looked at, and of a value
LARGEST: Final = 10**15
MOST_BRANCHES: Final = 100  # within one another
DEEPEST: Final = 8  # variables that name one another
_SIGNS: Final = ("--num-layers", "--hidden-size", "--micro-batch-size", "--num-attention-heads", "--tensor-model-parallel-size",
                 "--global-batch-size", "--seq-length", "--use-distributed-optimizer", "--num_layers", "--hidden_size",
                 "--micro_batch_size", "--tensor_model_parallel_size")  # fmt: skip
_TOKEN: Final = re.compile(  # sums, quoted text, words
    r"""\$\(\([^()]{0,200}(?:\([^()]{0,200}\)[^()]{0,200}){0,5}\)\)|"[^"]{0,1000}"|'[^']{0,1000}'|[^\s"']{1,1000}|["']"""
)
_ASSIGNED: Final = re.compile(
    r"""(?:export\s+|local\s+|readonly\s+|declare\s+)?([A-Za-z_]\w{0,60})\+?="""
    r"""(?!\()("[^"]{0,400}"|'[^']{0,400}'|\$\(\([^;]{0,200}\)\)|[^\s"']{0,400})"""
)
_OPTION: Final = re.compile(r"--([A-Za-z][\w.-]{1,80})(?:=(.{0,400}))?")
_VARIABLE: Final = re.compile(
    r"\$\{([A-Za-z_]\w{0,60})(?::?[-=]([^{}]{0,200}))?\}|\$([A-Za-z_]\w{0,60})|\$\{\d+:?-([^{}]{0,200})\}"
)
_SUM: Final = re.compile(r"\$\(\((.{1,200})\)\)|\$\[(.{1,200})\]")
_NEGATIVE: Final = re.compile(r"-[\d.]+(e-?\d+)?")
_OPERATORS: Final = frozenset({";", "&&", "||", "|", "&", ")", ">", ">>", "2>&1"})
_LIST: Final = re.compile(r"[A-Za-z_]\w{0,60}\+?=|\$\{?\w{1,60}(\[@\]\}|_ARGS\}?$)")
_BRANCH: Final = re.compile(r"(if|elif|else|fi)\b\s*(?:\[\[?\s+(.{1,200}?)\s+\]\]?\s*(?:;\s*then)?|.{0,300})$")
_EMPTY: Final = re.compile(r"-([nz])\s+[\"']?(\$\S{1,80}?)[\"']?")
_COMPARED: Final = re.compile(r"(\S{1,80})\s+(=|==|!=|-eq|-ne|-gt|-ge|-lt|-le)\s+(\S{1,80})")
_GPUS: Final = {"nproc_per_node": ("nproc_per_node", "GPUS_PER_NODE", "NPROC_PER_NODE", "NUM_GPUS_PER_NODE", "GPU_PER_NODE"),
                "nnodes": ("nnodes", "NNODES", "NUM_NODES", "SLURM_NNODES", "N_NODES")}  # fmt: skip


def looks_like_arguments(written: str) -> bool:
    """Whether text holds several of Megatron-LM's arguments."""
    return sum(sign in written for sign in _SIGNS) >= 3


def arguments_of(document: Document) -> Document:
    """The document with the arguments of its text as data, each with its line."""
    variables, lines = taken(document.text.splitlines()[:MOST_LINES])
    data: dict[str, Any] = {}
    places: dict[str, int] = {}
    for name, values, line in _options(lines):
        found = [filled(value, variables) for value in values]
        data[name] = True if not found else found[0] if len(found) == 1 else found
        places[name] = line
    for word, names in _GPUS.items():
        named = next((variables[name] for name in names if name in variables), "")
        counted = next((text for text in (str(data.pop(word, "")), filled(named, variables)) if text.isdigit()), "")
        data.update({word: int(counted)} if counted else {})
    if "CUDA_VISIBLE_DEVICES" in variables:
        data["visible_devices"] = len(variables["CUDA_VISIBLE_DEVICES"].split(","))
    return replace(document, data=data, unreadable=None, _parsed=Tree(data, places, {}))


def taken(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """The variables of a script, and its lines with those blank that a condition on them leaves out.

    Only comparisons with a word or a number are decided; where only the shell knows, every branch is taken.
    """
    variables: dict[str, str] = {}
    kept: list[str] = []
    branches: list[tuple[bool, bool]] = []  # of each `if` around: whether this branch is taken, whether one was
    for line in lines:
        bare = _bare(line).strip()
        match = _BRANCH.match(bare)
        if match:
            branches = _entered(branches, match[1], match[2] or "", variables)
        on = all(now for now, _ in branches) and not match
        kept.append(line if on else "")
        variables.update(_assigned(bare) if on else {})
    return variables, kept


def _entered(
    branches: list[tuple[bool, bool]], word: str, condition: str, variables: dict[str, str]
) -> list[tuple[bool, bool]]:
    """The branches around a line behind `if`, `elif`, `else` or `fi`."""
    if word == "if":
        holds = _holds(condition, variables)
        return [*branches[:MOST_BRANCHES], (holds is not False, holds is True)]
    if not branches:
        return branches
    *outer, (_, before) = branches
    if word == "fi":
        return outer
    holds = True if word == "else" else _holds(condition, variables)
    return [*outer, (holds is not False and not before, before or holds is True)]


def _holds(condition: str, variables: dict[str, str]) -> bool | None:
    """Whether a test holds; None where only the shell knows."""
    empty, compared = _EMPTY.fullmatch(condition), _COMPARED.fullmatch(condition)
    if empty:
        return (filled(empty[2], variables) in ("", empty[2])) == (empty[1] == "z")
    if not compared:
        return None
    left, right = (filled(compared[i].strip("\"'"), variables) for i in (1, 3))
    if "$" in left + right:
        return None
    sign = compared[2]
    if sign in ("=", "==", "!="):
        return (left == right) == (sign != "!=")
    if not (left.isdigit() and right.isdigit()):
        return None
    a, b = int(left), int(right)
    return {"-eq": a == b, "-ne": a != b, "-gt": a > b, "-ge": a >= b, "-lt": a < b, "-le": a <= b}[sign]


def _assigned(bare: str) -> dict[str, str]:
    """The names and values of plain assignments at the beginning of a line, those before a command too."""
    found: dict[str, str] = {}
    rest = bare
    while match := _ASSIGNED.match(rest):
        value, rest = match[2].strip("\"'").rstrip("\\;"), rest[match.end() :].lstrip()
        if (value and "--" not in value and not value.startswith(("`", "$("))) or value.startswith("$(("):
            found[match[1]] = value
    return found


def _options(lines: list[str]) -> Iterator[tuple[str, list[str], int]]:
    """(name, values, line) of every argument: its values stand behind it in the same line, or in the next behind a comma."""
    name = ""
    values: list[str] = []
    began = 0
    for number, line in enumerate(lines, 1):
        for token in _tokens(_bare(line)):
            option = _OPTION.fullmatch(token)
            if name and (option or _ends(token)):
                yield name, values, began
                name = ""
            if option and option[2]:
                yield option[1].replace("-", "_"), [option[2]], number
            elif option:
                name, values, began = option[1].replace("-", "_"), [], number
            elif name and (not token.startswith("-") or _NEGATIVE.fullmatch(token)):
                values.append(token)
        if name and not line.rstrip().endswith("\\"):
            yield name, values, began
            name = ""
    if name:
        yield name, values, began


def _ends(token: str) -> bool:
    """Whether a word ends an argument: an operator of the shell, an assignment, a program, a list of further arguments."""
    return token in _OPERATORS or token.endswith(".py") or _LIST.match(token) is not None


def _tokens(line: str) -> Iterator[str]:
    """Words of a line without quotes, brackets of arrays and assignments before them."""
    for token in _TOKEN.findall(line[:LONGEST]):
        inner = token.strip("\"'")
        assigned = re.match(r"[A-Za-z_]\w{0,60}\+?=\(?[\"']?(--.*)", inner)
        inner = assigned[1] if assigned else inner
        for part in inner.split() if inner.startswith("--") or " --" in inner else [inner]:
            word = part if part.startswith("$((") else part.strip("\\\"'").rstrip(")" if "(" not in part else "")
            word = word.lstrip("(") if word.startswith("(-") else word
            if word:
                yield word


def _bare(line: str) -> str:
    """A line without its comment."""
    return re.split(r"(?:^|\s)#", line[:LONGEST], maxsplit=1)[0]


def filled(value: str, variables: dict[str, str], depth: int = 0) -> str:
    """A value with its variables and sums replaced, as far as they are known."""

    def one(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        if name in variables and variables[name] != match[0]:
            return filled(variables[name], {k: v for k, v in variables.items() if k != name}, depth + 1)
        default = match[2] if match[1] else match[4]
        return default if default is not None else match[0]

    if depth > DEEPEST or "$" not in value:
        return value
    made = _VARIABLE.sub(one, value)[:LONGEST]
    return _SUM.sub(lambda match: _computed(match[1] or match[2], variables, depth), made)


def _computed(written: str, variables: dict[str, str], depth: int) -> str:
    """A sum of whole numbers; names in it are variables too. As it is written where it is no such sum."""
    named = re.sub(
        r"[A-Za-z_]\w*", lambda m: filled(variables.get(m[0], m[0]), {}, depth + 1), written.replace("$", "")
    )
    try:
        return str(_value(ast.parse(named.strip(), mode="eval").body))
    except (SyntaxError, TypeError, ZeroDivisionError, RecursionError, MemoryError, ValueError):
        return f"$(({written}))"


def _value(node: ast.expr) -> int:
    """The value of sums, differences, products and quotients of whole numbers; TypeError for anything else."""
    match node:
        case ast.Constant(value=int(found)) if abs(found) < LARGEST:
            return found
        case ast.BinOp(
            left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.FloorDiv() as op, right=right
        ):
            a, b = _value(left), _value(right)
            made = _KINDS[type(op)](a, b)
            if abs(made) < LARGEST:
                return made
    raise TypeError


_KINDS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: floordiv, ast.FloorDiv: floordiv,
}  # fmt: skip
