"""Commands in a shell script, word by word, each with its line; nothing is run.

Quotes, continued lines, comments, arrays (`ARGS=(…)`), texts over several lines and here-documents are taken apart;
variables are put in where a script sets them (`${X:-default}` has its default where it does not), and branches are
followed as `megatron_script` does it. What only the shell knows (`$1`, `$(nproc)`) stays as it is written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from memcalc.configs.megatron_script import MOST_LINES, filled, taken

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_WORDS: Final = 20_000
LONGEST: Final = 4_000  # characters of a word that is no list
DEEPEST: Final = 6  # lists that hold lists, shells in shells
_ASSIGNED: Final = re.compile(r"([A-Za-z_]\w{0,60})(\+?)=(.*)", re.DOTALL)
_LIST: Final = re.compile(r"\$\{?([A-Za-z_]\w{0,60})(?:\[[@*]\])?\}?")
_HERE: Final = re.compile(r"<<-?\s{0,5}[\"']?(\w{1,40})[\"']?")
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\\\n)|(?P<note>\#[^\n]*)|(?P<end>\n|;;?|&&?|\|\|?)|(?P<open>\()|(?P<close>\))"""
    r"""|(?P<word>(?:\\[^\n]|\$\(\([^()\n]{0,300}\)\)|\$\([^()\n]{0,400}\)|`[^`\n]{0,400}`|"(?:\\.|[^"\\]){0,20000}"|'[^']{0,20000}'"""
    r"""|\$\{[^{}\n]{0,300}\}|[^\s;&|()"'`\\]|\\(?=\n)(?!\n)|["'`])+)""",
    re.DOTALL,
)
_SHELLS: Final = ("bash", "sh", "zsh")


class Word(NamedTuple):
    """A word of a command without its quotes, and its line, counted from 1."""

    text: str
    line: int


class Command(NamedTuple):
    """The words of one command, and what is assigned before them (`CUDA_VISIBLE_DEVICES=0,1 python …`)."""

    words: tuple[Word, ...]
    variables: dict[str, str]


def commands(text: str) -> list[Command]:
    """Every command of a script, in its order, variables put in."""
    variables, lines = taken(text.splitlines()[:MOST_LINES])
    lists: dict[str, list[Word]] = {}
    return list(_commands("\n".join(_without_documents(lines)), dict(variables), lists, 1, 0))


def _without_documents(lines: list[str]) -> Iterator[str]:
    """The lines with here-documents blank: they are input of a command, not commands."""
    until = ""
    for line in lines:
        if until:
            until = "" if line.strip() == until else until
            yield ""
            continue
        match = _HERE.search(line)
        until = match[1] if match else ""
        yield line[: match.start()] if match else line


def _commands(
    text: str, variables: dict[str, str], lists: dict[str, list[Word]], first: int, depth: int
) -> Iterator[Command]:
    """The commands of a text whose first line has that number."""
    for words in _split(text, first):
        while words and (match := _ASSIGNED.match(words[0].text)) and not words[0].text.startswith("-"):
            _assign(match, words.pop(0), variables, lists)
        if words and words[0].text in ("export", "local", "declare", "readonly", "typeset"):
            for word in words[1:]:
                if match := _ASSIGNED.match(word.text):
                    _assign(match, word, variables, lists)
            continue
        if not words:
            continue
        put = [one for word in words for one in _put_in(word, variables, lists, 0)]
        inner = _inner(put)
        if inner is not None and depth < DEEPEST:
            yield from _commands(inner.text, dict(variables), dict(lists), inner.line, depth + 1)
        else:
            yield Command(tuple(put), dict(variables))


def _inner(words: list[Word]) -> Word | None:
    """The text that `bash -c` runs."""
    names = [word.text.rpartition("/")[2] for word in words]
    for place, name in enumerate(names[:-2]):
        if name in _SHELLS:
            flag = next(
                (i for i in range(place + 1, min(place + 4, len(names) - 1)) if re.fullmatch(r"-\w*c", names[i])), None
            )
            return words[flag + 1] if flag is not None else None
    return None


def _assign(match: re.Match[str], word: Word, variables: dict[str, str], lists: dict[str, list[Word]]) -> None:
    """Take an assignment; what is put in a list or a text of several words is kept with its lines."""
    name, more, value = match[1], bool(match[2]), match[3]
    if value.startswith("(") and value.endswith(")"):
        found = [one for words in _split(value[1:-1], word.line) for one in words]
    else:
        bare = _bare(value, joined=False)
        found = [one for words in _split(bare, word.line) for one in words] if re.search(r"\s", bare.strip()) else []
        before = variables.get(name, "") if more else ""
        variables[name] = (f"{before}{bare}" if more else bare)[:LONGEST]
        if more and not found:
            found = [Word(bare, word.line)] if bare else []
    if found or more:
        lists[name] = [*(lists.get(name, []) if more else []), *found][:MOST_WORDS]
    else:
        lists.pop(name, None)


def _put_in(word: Word, variables: dict[str, str], lists: dict[str, list[Word]], depth: int) -> Iterator[Word]:
    """A word with variables put in: the words of a list, where it names one and nothing else."""
    alone = _LIST.fullmatch(_bare(word.text))
    quoted = word.text.startswith('"') and "@" not in word.text
    if alone and alone[1] in lists and depth < DEEPEST and not quoted:
        below = {name: words for name, words in lists.items() if name != alone[1]}
        for one in lists[alone[1]]:
            yield from _put_in(one, variables, below, depth + 1)
        return
    made = filled(_bare(word.text), variables)
    if made or not alone:
        yield Word(made, word.line)


def _bare(text: str, *, joined: bool = True) -> str:
    """A word without its quotes, and the signs that they hide; continued lines are joined unless said otherwise."""
    if text[:1] == text[-1:] == "'" and len(text) > 1:
        return text[1:-1]
    if "{" in text:
        return _json(text)
    made = re.sub(r"(?<!\\)[\"']", "", text).replace('\\"', '"')
    return re.sub(r"\\\n[ \t]*", " ", made) if joined else made


def _json(text: str) -> str:
    """A word that holds braces: its outer quotes alone are taken off, for those within may be JSON's."""
    outer = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    name, sign, value = outer.partition("=")
    if sign and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        outer = f"{name}={value[1:-1]}"
    return (
        outer.replace('\\"', '"')
        if outer.lstrip().startswith("{") or "={" in outer
        else outer.replace('"', "").replace("'", "")
    )


def _split(text: str, first: int) -> Iterator[list[Word]]:
    """The words of each command of a text, as they are written; an array is one word with what it holds."""
    found: list[Word] = []
    place, line, count = 0, first, 0
    while place < len(text) and count < MOST_WORDS:
        match = _TOKEN.match(text, place)
        if match is None:
            place += 1
            continue
        count += 1
        kind = match.lastgroup
        if kind == "end":
            if found:
                yield found
            found = []
        elif kind == "word":
            written, end = match[0], match.end()
            if written.endswith("=") and text[end : end + 1] == "(":
                close = _closing(text, end)
                written, end = text[place:close], close
            found.append(Word(written, line))
            line += text.count("\n", place, end)
            place = end
            continue
        line += text.count("\n", place, match.end())
        place = match.end()
    if found:
        yield found


def _closing(text: str, begin: int) -> int:
    """The place behind the bracket that closes the one at `begin`; comments and quotes in between do not count."""
    place, depth = begin, 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        step = match.end() if match else place + 1
        kind = match.lastgroup if match else ""
        depth += (kind == "open") - (kind == "close")
        place = step
        if depth == 0:
            return place
    return len(text)
