"""What starts a training program: accelerate, torchrun, deepspeed, plain python, or a trainer's own command.

Sources: accelerate/commands/launch.py, torch/distributed/run.py, deepspeed/launcher/runner.py, torchtune/_cli/run.py,
trl/cli (arguments of accelerate's launcher are taken beside the trainer's).
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memcalc.configs.shell import Command, Word
from memcalc.nesting import check_depth

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HEADS: Final = ("accelerate", "accelerate-launch", "torchrun", "deepspeed", "llamafactory-cli", "lmf", "axolotl", "trl", "tune",
                 "litgpt", "composer")  # fmt: skip
_PYTHON: Final = re.compile(r"(?:\S*/)?python[\d.]*")
_OWN: Final = {
    "llamafactory-cli": ("train",), "lmf": ("train",), "axolotl": ("train",), "tune": ("run",),
    "trl": ("sft", "dpo", "grpo", "kto", "rloo", "reward", "orpo", "cpo", "ppo"),
    "litgpt": ("finetune", "finetune_lora", "finetune_full", "finetune_adapter", "pretrain"),
}  # fmt: skip
_MODULES: Final = {  # that are launchers themselves
    "torch.distributed.run": "torchrun", "torch.distributed.launch": "torchrun", "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.runner": "deepspeed",
}  # fmt: skip
# torchrun's options that take the next word
_WITH_VALUES: Final = ("nproc_per_node", "nnodes", "rdzv_id", "rdzv_backend", "rdzv_endpoint", "master_port", "master_addr",
                       "node_rank")  # fmt: skip
_OPTION: Final = re.compile(r"--?([A-Za-z][\w.-]{0,100})(?:=(.*))?", re.DOTALL)
_PAIR: Final = re.compile(r"\+{0,2}~?([A-Za-z_][\w.]{0,120})=(.*)", re.DOTALL)
_NEGATIVE: Final = re.compile(r"-[\d.]+(e-?\d+)?")
_FILE: Final = re.compile(r"\.(ya?ml|json|toml)$", re.IGNORECASE)


class Launch(NamedTuple):
    """A program that is started: by what, with which options of its launcher, what it is told, and in which line.

    `program` is a script's path, a module's name, or a trainer's own command (`trl sft`); `python` is the launcher of
    what is started without one.
    """

    launcher: str
    options: dict[str, Any]
    program: str
    arguments: tuple[Word, ...]
    variables: dict[str, str]
    line: int


def launched(command: Command) -> Launch | None:
    """What a command launches; None where it is no program of the kind."""
    words = list(command.words)
    place = next((i for i, word in enumerate(words) if _is_head(words, i)), None)
    if place is None:
        return _titan(command)
    head, rest = words[place].text.rpartition("/")[2], words[place + 1 :]
    if head in _OWN:
        return _own(head, rest, command, words[place].line)
    if _PYTHON.fullmatch(words[place].text):
        module = next((word.text for before, word in pairwise(rest) if before.text == "-m"), "")
        if module not in _MODULES:
            return _program("python", rest, command, words[place].line)
        head = _MODULES[module]
        rest = rest[next(i for i, word in enumerate(rest) if word.text == module) + 1 :]
    elif head == "accelerate":
        rest = rest[1:] if rest and rest[0].text == "launch" else []
    return _program(head.removesuffix("-launch"), rest, command, words[place].line)


def _titan(command: Command) -> Launch | None:
    """torchtitan's run_train.sh, which is told by variables: NGPU processes, the file CONFIG_FILE."""
    place = next((i for i, word in enumerate(command.words) if word.text.endswith("run_train.sh")), None)
    if place is None:
        return None
    line, rest, known = command.words[place].line, command.words[place + 1 :], command.variables
    named = (Word(f"--job.config_file={known['CONFIG_FILE']}", line),) if "CONFIG_FILE" in known else ()
    return Launch("torchrun", {"nproc_per_node": known.get("NGPU", "8")}, "run_train.sh", (*named, *rest), known, line)


def _is_head(words: Sequence[Word], place: int) -> bool:
    """Whether a word starts programs: a launcher, or python; `pip install accelerate` and `which deepspeed` do not."""
    name = words[place].text.rpartition("/")[2]
    before = [word.text for word in words[:place]]
    if any(word in ("install", "pip", "pip3", "which", "echo", "import", "-m") for word in before):
        return False
    following = words[place + 1].text if place + 1 < len(words) else ""
    if name in _OWN:
        return following in _OWN[name]
    if name == "accelerate":
        return following == "launch"
    return name in _HEADS or bool(_PYTHON.fullmatch(words[place].text))


def _own(head: str, rest: list[Word], command: Command, line: int) -> Launch:
    """A trainer's own command: `trl sft …`; torchtune's has torchrun's options before its recipe."""
    task, told = rest[0].text, rest[1:]
    if head != "tune":
        return Launch(head, {}, f"{head} {task}", tuple(told), command.variables, line)
    place = 0
    while place < len(told) and (match := _OPTION.fullmatch(told[place].text)):
        place += 1 if match[2] is not None or match[1].replace("-", "_") not in _WITH_VALUES else 2
    recipe = told[place].text if place < len(told) else ""
    return Launch(
        "torchrun", mapping(told[:place])[0], f"tune {recipe}", tuple(told[place + 1 :]), command.variables, line
    )


def _program(head: str, rest: list[Word], command: Command, line: int) -> Launch | None:
    """A script or a module, behind the options of its launcher."""
    for place, word in enumerate(rest):
        before = rest[place - 1].text if place else ""
        if word.text.endswith(".py") or before in ("-m", "--module"):
            options = mapping(rest[: place - 1 if before in ("-m", "--module") else place])[0]
            return Launch(head, options, word.text, tuple(rest[place + 1 :]), command.variables, line)
    return None


def mapping(words: Iterable[Word], *, pairs: bool = True) -> tuple[dict[str, Any], dict[str, int], list[Word]]:
    """Options (`--key value …`, `--key=value`, `--switch`) and pairs (`key=value`) as data, their lines, and other words.

    Hyphens are underscores, dots lead into mappings; what is written as JSON is taken so; the last of a name counts.
    """
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    others: list[Word] = []
    name, values = "", []  # type: str, list[str]

    def close() -> None:
        if name:
            _set(data, name, True if not values else values[0] if len(values) == 1 else list(values))

    for word in words:
        option = _OPTION.fullmatch(word.text) if not _NEGATIVE.fullmatch(word.text) else None
        pair = _PAIR.fullmatch(word.text) if pairs and not option else None
        if match := option or pair:
            close()
            name, values = match[1].replace("-", "_") if option else match[1], []
            lines[name] = word.line
            if match[2] is not None:
                _set(data, name, match[2])
                name = ""
        elif name:
            values.append(word.text)
        else:
            others.append(word)
    close()
    return data, lines, others


def _set(data: dict[str, Any], name: str, value: Any) -> None:  # noqa: ANN401
    """Put a value at a dotted name; JSON is taken as such."""
    *around, last = name.split(".")
    for step in around:
        inner = data.get(step)
        data[step] = inner = inner if isinstance(inner, dict) else {}
        data = inner
    data[last] = _plain(value)


def _plain(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")) or len(value) > 10_000:
        return value
    try:
        made = json.loads(value)
        check_depth(made, "an argument")
    except (ValueError, RecursionError):
        bracketed = value.strip()[1:-1]
        return [part.strip() for part in bracketed.split(",")] if value.strip().startswith("[") else value
    return made


def is_file_name(text: str) -> bool:
    """Whether a word names a file of settings."""
    return bool(_FILE.search(text))


def processes(launch: Launch) -> tuple[int | None, tuple[str, ...]]:
    """How many processes a launch makes in all, and the options that say so; None where they do not."""
    options = launch.options
    if launch.launcher == "torchrun":
        each, nodes = _count(options.get("nproc_per_node")), _count(str(options.get("nnodes", 1)).rpartition(":")[2])
        return (each * nodes if each and nodes else None), ("nproc_per_node", "nnodes")
    if launch.launcher == "deepspeed":
        return _of_deepspeed(options), ("num_gpus", "num_nodes", "include")
    if launch.launcher in ("axolotl", "trl"):  # whose arguments are the launcher's, too
        return _count(mapping(launch.arguments)[0].get("num_processes")), ("num_processes",)
    if launch.launcher == "composer":
        return _count(options.get("n") or options.get("nproc")), ("n", "nproc")
    return _count(options.get("num_processes")), ("num_processes",)


def _of_deepspeed(options: dict[str, Any]) -> int | None:
    """num_gpus of each of num_nodes; `--include localhost:0,1,2@other:0,1`."""
    included = str(options.get("include") or "")
    if included:
        return sum(len(part.partition(":")[2].split(",")) for part in included.split("@") if ":" in part) or None
    each, nodes = _count(options.get("num_gpus")), _count(options.get("num_nodes", 1))
    return each * nodes if each and nodes else None


def _count(value: Any) -> int | None:  # noqa: ANN401
    text = str(value).strip()
    return int(text) if text.isdigit() and int(text[:9]) > 0 else None
