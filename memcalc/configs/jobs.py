"""Job files that hold command lines: SkyPilot, Kubernetes, dstack, docker compose, Slurm's headers.

Of a job are taken its commands, each line where it stands in the file, and the GPUs that it asks for.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

from memcalc.dataclass import dataclass
from memcalc.nesting import DEEPEST
from memcalc.presets import has

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcalc.configs.documents import Document

MOST_LINES: Final = 20_000
LONGEST: Final = 400_000  # characters of a script that are looked at
_RUN: Final = ("run", "commands", "command", "args", "entrypoint", "script")
_SLURM: Final = re.compile(r"^#SBATCH\s+(.{1,200})$", re.MULTILINE)
_ASKED: Final = re.compile(
    r"--(?:gres=gpu:(?:[\w.-]+:)?|gpus-per-node[= ](?:[\w.-]+:)?|gpus-per-task[= ](?:[\w.-]+:)?)(\d{1,3})"
)
_NODES: Final = re.compile(r"(?:--nodes[= ]|-N\s*)(\d{1,4})\b")
_SHELL: Final = re.compile(r"\s|[\"'$]")


@dataclass(frozen=True)
class Job:
    """The commands of a job as a script, the GPUs it asks for in all (0: it does not say), their kind, and the key of it.

    `lines` holds the line of each key that is named.
    """

    text: str
    gpus: int = 0
    gpu: str = ""
    said: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, key: str) -> int | None:
        """The line of a key, where it is known."""
        return self.lines.get(key)


def job_of(document: Document) -> Job:
    """The job that a document is; a script is one by itself, and without commands the text is ''."""
    if not document.data:
        return _script(document.text)
    data = document.data
    if isinstance(data.get("run"), str) and ({"resources", "num_nodes", "setup", "envs"} & data.keys()):
        return _skypilot(document)
    if "apiVersion" in data and "kind" in data:
        return _kubernetes(document)
    if data.get("type") == "task" and isinstance(data.get("commands"), list):
        return _dstack(document)
    if isinstance(data.get("services"), dict):
        return Job(_placed(document, _commands(data["services"], "services")))
    return Job("")


def _script(text: str) -> Job:
    """A script, with what Slurm's headers ask for."""
    headers = " ".join(_SLURM.findall(text[:20_000]))
    each, nodes = _ASKED.search(headers), _NODES.search(headers)
    count = int(each[1]) * int(nodes[1] if nodes else 1) if each else 0
    return Job(text, count, said="#SBATCH" if count else "")


def _skypilot(document: Document) -> Job:
    """`resources.accelerators: H100:8` on each of `num_nodes`; the variables that SkyPilot sets."""
    data = document.data
    resources = data.get("resources")
    kind, each = _accelerators(resources.get("accelerators") if isinstance(resources, dict) else None)
    nodes = data.get("num_nodes") if isinstance(data.get("num_nodes"), int) else 1
    known = [f"{name}={value}" for section in ("envs", "secrets") for name, value in _pairs(data.get(section))]
    known += [f"SKYPILOT_NUM_GPUS_PER_NODE={each}"] if each else []
    begin = " ".join([*known, f"SKYPILOT_NUM_NODES={nodes}"])
    found = [("run", str(data["run"]), True)]
    said = "resources.accelerators"
    return Job(f"export {begin}; {_placed(document, found)}", each * int(nodes or 1), _gpu(kind), said,
               {said: document.where(said)[1] or 0})  # fmt: skip


def _accelerators(value: Any) -> tuple[str, int]:  # noqa: ANN401
    """`H100:8`, `{H100: 8}` or a list of which any will do: the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        return next(((str(name), count if isinstance(count, int) else 1) for name, count in value.items()), ("", 0))
    name, _, count = str(value or "").partition(":")
    return name, int(count) if count.isdigit() else 1 if name else 0


def _gpu(kind: str) -> str:
    """The preset of a kind of GPU; '' where there is none of that name."""
    word = kind.strip().lower().replace("_", "-")
    return word if word and has("gpus", word) else ""


def _kubernetes(document: Document) -> Job:
    """Commands of containers, GPUs of their limits, times the replicas of a PyTorchJob."""
    found = list(_commands(document.data.get("spec"), "spec"))
    each = next((int(value) for value in _values(document.data, "nvidia.com/gpu") if str(value).isdigit()), 0)
    replicas = (
        sum(int(value) for value in _values(document.data.get("spec"), "replicas") if isinstance(value, int)) or 1
    )
    is_job = "job" in str(document.data.get("kind", "")).lower()
    key = next((path for path in document.lines if path.endswith("nvidia.com/gpu")), "nvidia.com/gpu")
    return Job(_placed(document, found), each * (replicas if is_job else 1), said=key, lines=dict(document.lines))


def _dstack(document: Document) -> Job:
    resources = document.data.get("resources")
    kind, each = _accelerators(resources.get("gpu") if isinstance(resources, dict) else None)
    nodes = document.data.get("nodes") if isinstance(document.data.get("nodes"), int) else 1
    lines = [(f"commands.{i}", str(line), "\n" in str(line)) for i, line in enumerate(document.data["commands"])]
    before = f"export DSTACK_GPUS_PER_NODE={each} DSTACK_NODES_NUM={nodes}; " if each else ""
    return Job(before + _placed(document, lines), each * int(nodes or 1), _gpu(kind), "resources.gpu",
               {"resources.gpu": document.where("resources.gpu")[1] or 0})  # fmt: skip


def _commands(data: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str, bool]]:  # noqa: ANN401
    """(path, text, whether it is a block of lines) of every command below: a text, or a list of words."""
    if depth > DEEPEST:
        return
    if isinstance(data, dict):
        both = [data[key] for key in ("command", "args") if isinstance(data.get(key), list)]
        if both:
            key = "command" if isinstance(data.get("command"), list) else "args"
            words = [str(word) for part in both for word in part]
            yield _of_words(f"{path}.{key}", words, len(both) > 1)
        for key, value in data.items():
            if key in _RUN and isinstance(value, str):
                yield f"{path}.{key}", value, "\n" in value
            elif isinstance(value, dict | list) and not (both and key in ("command", "args")):
                yield from _commands(value, f"{path}.{key}", depth + 1)
    elif isinstance(data, list):
        for place, value in enumerate(data[:200]):
            yield from _commands(value, f"{path}.{place}", depth + 1)


def _of_words(path: str, words: list[str], parted: bool) -> tuple[str, str, bool]:
    """A command that is a list of words; what a shell of them runs (`bash -c …`) is a text where it stands."""
    flag = next((i for i, word in enumerate(words[:-1]) if i and re.fullmatch(r"-\w*c", word)), None)
    if flag is not None and words[0].rpartition("/")[2] in ("bash", "sh") and not parted:
        return f"{path}.{flag + 1}", words[flag + 1], "\n" in words[flag + 1]
    return path, " ".join(map(_quoted, words)), False


def _quoted(word: str) -> str:
    if not _SHELL.search(word):
        return word
    return f"'{word}'" if "'" not in word else '"' + word.replace('"', '\\"') + '"'


def _values(data: Any, key: str, depth: int = 0) -> Iterator[Any]:  # noqa: ANN401
    if depth > DEEPEST or not isinstance(data, dict | list):
        return
    for name, value in data.items() if isinstance(data, dict) else enumerate(data[:200]):
        if name == key:
            yield value
        else:
            yield from _values(value, key, depth + 1)


def _pairs(section: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    for name, value in section.items() if isinstance(section, dict) else ():
        if (
            re.fullmatch(r"[A-Za-z_]\w{0,60}", str(name))
            and value is not None
            and re.fullmatch(r"[\w./:@%+,=-]{0,200}", str(value))
        ):
            yield str(name), str(value)


def _placed(document: Document, found: Iterable[tuple[str, str, bool]]) -> str:
    """The texts at those paths one after the other, each in the line of the file that it stands in."""
    made: list[str] = []
    for path, text, block in found:
        line = document.where(path)[1] or 1
        made.extend([""] * max(0, min(line - (0 if block else 1), MOST_LINES) - len(made)))
        made.extend(text.splitlines())
    return "\n".join(made)
