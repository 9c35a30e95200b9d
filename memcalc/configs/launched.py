"""What the command lines of a script or a job mean: files of settings, options, and the launcher's say (`launch`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memcalc.configs.engines import Told, around, settings
from memcalc.configs.follow import find, follow, laid_over
from memcalc.configs.jobs import LONGEST, Job, job_of
from memcalc.configs.launching import Launch, is_file_name, launched, mapping, processes
from memcalc.configs.reading import Asked, Origin, Reading, Remark
from memcalc.configs.shell import Word, commands
from memcalc.configs.starting import NAME, TITLE, recognises
from memcalc.configs.table import Sheet
from memcalc.configs.trl import COMMAND
from memcalc.errors import UnreadableInput, shorten
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from memcalc.configs.documents import Document

# programs whose trainer is known by their name: (a regular expression, format)
_PROGRAMS: Final = (
    (re.compile(r"^(llamafactory-cli|lmf) train$|(^|/)(train_bash|src/train)\.py$|^llamafactory\."), "llamafactory"),
    (re.compile(r"^axolotl train$|^axolotl\.cli\.train$|^scripts/finetune\.py$"), "axolotl"),
    (re.compile(r"^tune "), "torchtune"),
    (re.compile(r"^torchtitan\.|(^|/)torchtitan/(train|experiments/\S+)\.py$|(^|/)run_train\.sh$"), "torchtitan"),
    (re.compile(r"^litgpt "), "litgpt"),
    (re.compile(r"^(MaxText|maxtext)\.|(^|/)MaxText/\S+\.py$"), "maxtext"),
    (re.compile(r"(^|/)(deepy|run_neox)\.py$"), "gpt-neox"),
)
_EXAMPLE: Final = re.compile(
    r"(^|/)run_(clm|mlm|plm|fim|glue|qa|ner|summarization|translation|squad|swag|mae|mim|speech)"
)
_TASKS: Final = re.compile(r"(?<![a-z])(sft|dpo|grpo|kto|rloo|reward|orpo|cpo|ppo|gkd)(?![a-z])")
_TRAINERS: Final = ("per_device_train_batch_size", "model_name_or_path", "output_dir")
_CONFIGS: Final = ("config", "config_file", "job.config_file", "job.config-file", "config_path", "cfg", "conf")
_ALL_OF_THEM: Final = ("llamafactory", "axolotl", "maxtext")  # started without a launcher they take every GPU they see


def of_commands(document: Document, asked: Asked) -> Reading:
    """The run of the first training command."""
    job = job_of(document)
    script = replace(document, text=job.text, data={}, _parsed=None) if document.data else document
    other = _scripts(script) if document.data else None
    if other is not None:
        return _with_job(other(script, asked), job, asked, script)
    known = [found for found in (_started(script, launch) for launch in _launches(job)) if found is not None]
    if not known:
        raise Sheet(document, asked, NAME, TITLE).refuse("", _unknown(job))
    first = known[0]
    count, where = _gpus(first, job)
    flags = {**asked.flags, **({"gpus": count} if count and not asked.gpus else {})}
    reading: Reading = _module(first.form).read(first.document, Asked(flags, asked.hub))
    if count and not asked.gpus:
        own = first.told.where(where) if where == "num_processes" and where not in first.launch.options else None
        line = first.launch.line if where != job.said else job.line_of(where)
        reading = _counted(reading, count, Origin(*(own or (script.source, line)), where))
    return _finished(reading, script, asked, first, len(known), job)


class _Started(NamedTuple):
    """What is launched, the format whose reader takes it, its document, what accelerate is told."""

    launch: Launch
    form: str
    document: Document
    told: Told


def _module(form: str) -> Any:  # noqa: ANN401 - a module of a format
    from memcalc.configs import module_of  # noqa: PLC0415 - the table of formats names this module, too

    return module_of(form)


def _launches(job: Job) -> list[Launch]:
    return [found for found in map(launched, commands(job.text[:LONGEST])) if found is not None]


def _scripts(script: Document) -> Any:  # noqa: ANN401 - a reader
    """The reader of scripts that is surer of a job's commands: Megatron-LM's arguments, sd-scripts, verl."""
    from memcalc.configs import FORMATS  # noqa: PLC0415 - the table of formats names this module, too

    modules = [_module(name) for name in FORMATS if name != NAME]
    found = [(int(module.recognises(script)), module) for module in modules if getattr(module, "TEXT", False)]
    surest = max(found, key=lambda one: one[0])
    return surest[1].read if surest[0] > recognises(script) else None


def _started(script: Document, launch: Launch) -> _Started | None:
    """What a reader takes of what is launched; None where there is none for it."""
    made = _document(script, launch)
    form = _form(launch, made)
    if not form:
        return None
    if form == "torchtune" and isinstance(made.data.get("config"), str):
        raise Sheet(made, Asked(), NAME, TITLE).refuse("config", f"{shorten(made.data['config'])} is one of torchtune's own files; "
                    f"`tune cp {shorten(made.data['config'])} .` brings it here, where it can be read")  # fmt: skip
    if form == "trl" and (task := _TASKS.search(_stem(launch.program))):
        made = replace(made, data={COMMAND: task[1], **made.data})
    if form not in ("trl", "training-arguments", "llamafactory", "axolotl"):
        return _Started(launch, form, made, Told({}))
    options = launch.options if launch.launcher == "accelerate" else _taken(made, launch)
    told = settings(script, options)
    return _Started(launch, form, around(made, told), told)


def _taken(made: Document, launch: Launch) -> dict[str, Any]:
    """The arguments of `trl sft` and `axolotl train` that are the launcher's: taken out of the trainer's."""
    names = ("accelerate_config", "num_processes", "num_machines", "main_process_port", "launcher", "multi_gpu")
    own = launch.launcher in ("trl", "axolotl")
    return {name: made.data.pop(name) for name in names if own and name in made.data}


def _form(launch: Launch, made: Document) -> str:
    """The format by the program's name, by the command, or by the settings themselves; '' where none is known."""
    from memcalc.configs import detect  # noqa: PLC0415 - the table of formats names this module, too

    form = next((form for pattern, form in _PROGRAMS if pattern.search(launch.program)), "")
    if form or launch.launcher == "trl":
        return form or "trl"
    form = detect(made) if made.data else ""
    known = sum(key in made.data for key in _TRAINERS)
    if form in ("", "training-arguments", "hf-config") and known:
        named = _TASKS.search(_stem(launch.program)) and not _EXAMPLE.search(launch.program)
        return "trl" if named else "training-arguments" if known > 1 else form
    return "" if form == NAME else form


def _stem(program: str) -> str:
    return program.rpartition("/")[2].removesuffix(".py").lower().replace("_", "-").rpartition(" ")[2]


def _document(script: Document, launch: Launch) -> Document:
    """The options of a command as data with their lines, over the files of settings that it names."""
    data, places, others = mapping(launch.arguments)
    named = [word.text for word in others if is_file_name(word.text)]
    for key in _CONFIGS:
        value = _popped(data, key)
        if isinstance(value, str) and is_file_name(value):
            named.append(value)
        elif value is not None:
            _restore(data, key, value)
    named = _own_ways(launch, data, places, others, named)
    made = replace(script, data=data, unreadable=None, _parsed=Tree(data, places, {}))
    for name in reversed(named[:8]):
        made = laid_over(made, _base(script, name))
    return made


def _own_ways(
    launch: Launch, data: dict[str, Any], places: dict[str, int], others: list[Word], named: list[str]
) -> list[str]:
    """The files that are named, where a program has its own way to say things; what it says besides goes into `data`."""
    first = next((word for word in others if not is_file_name(word.text)), None)
    if launch.program.startswith("litgpt "):
        task = launch.program.partition(" ")[2]
        more: dict[str, Any] = (
            {} if first is None else {"model_name" if task == "pretrain" else "checkpoint_dir": first.text}
        )
        more |= {"lora_r": 8} if task in ("finetune", "finetune_lora") else {}
        more |= {"out_dir": "adapter"} if task == "finetune_adapter" else {}
        data.update({key: value for key, value in more.items() if key not in data})
        places.update(dict.fromkeys(more.keys() - places.keys(), launch.line))
    if launch.program.endswith("deepy.py"):
        words = [str(word) for key in ("d", "conf_dir") for word in _listed(data.pop(key, []))]
        folder = next((word for word in words if not is_file_name(word)), ".")
        named = [f"{folder}/{word}" for word in [*words, *named] if is_file_name(word)]
        data.clear()
    if re.search("maxtext", launch.program, re.IGNORECASE) and any(name.endswith("base.yml") for name in named):
        data.setdefault("base_config", "base.yml")
        named = [name for name in named if not name.endswith("base.yml")]
    return named


def _listed(value: Any) -> list[Any]:  # noqa: ANN401
    return value if isinstance(value, list) else [value]


def _popped(data: dict[str, Any], key: str) -> Any:  # noqa: ANN401
    head, dot, rest = key.partition(".")
    if not dot:
        return data.pop(key, None)
    inner = data.get(head)
    return _popped(inner, rest) if isinstance(inner, dict) else None


def _restore(data: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401
    head, dot, rest = key.partition(".")
    if dot:
        _restore(data.setdefault(head, {}), rest, value)
    else:
        data[head] = value


def _base(script: Document, name: str) -> Document:
    """A file of settings; a reason where it is not there."""
    if find(script, name) is None:
        raise UnreadableInput(f"{script.source} starts a run with {shorten(name)}, which is neither beside it, nor below the "
                              "current folder, nor below a folder above it; put it there, or estimate it by itself")  # fmt: skip
    return follow(script, name)


def _gpus(found: _Started, job: Job) -> tuple[int | None, str]:
    """How many GPUs a run has, and where that is said: by the launcher, what it sees, what the job asks for."""
    launch = found.launch
    count, keys = processes(launch)
    told = str(found.told.data.get("num_processes", ""))
    if count is None and told.isdigit() and int(told):
        return int(told), "num_processes"
    if count:
        return count, " x ".join(key for key in keys if key in launch.options)
    if launch.launcher in ("python", "trl", "litgpt") and found.form not in _ALL_OF_THEM:
        return None, ""  # one process, or as its own arguments say
    seen = str(launch.variables.get("CUDA_VISIBLE_DEVICES", ""))
    if re.fullmatch(r"\d+(,\d+)*", seen):
        return len(seen.split(",")), "CUDA_VISIBLE_DEVICES"
    return (job.gpus, job.said) if job.gpus else (None, "")


def _with_job(reading: Reading, job: Job, asked: Asked, script: Document) -> Reading:
    """A reading of a job's commands by another reader, with the GPUs that the job asks for."""
    assumed = any(note.code == "gpus-not-in-config" for note in reading.assumptions)
    if not (assumed and job.gpus) or asked.gpus:
        return reading
    return _counted(reading, job.gpus, Origin(script.source, job.line_of(job.said), job.said))


def _counted(reading: Reading, count: int, origin: Origin) -> Reading:
    notes = tuple(note for note in reading.assumptions if note.code != "gpus-not-in-config")
    return replace(
        reading, run={**reading.run, "gpus": count}, origins={**reading.origins, "gpus": origin}, assumptions=notes
    )


def _finished(reading: Reading, script: Document, asked: Asked, found: _Started, several: int, job: Job) -> Reading:
    """The reading with what was launched, the job's kind of GPU, and whether there are further commands."""
    line = found.launch.line
    told = Remark("command", "", f"read from the command in line {line}: {shorten(found.launch.program)}")
    warnings = [*reading.warnings, *found.told.notes]
    if several > 1:
        warnings.append(
            Remark("several-commands", "", f"{several} commands train; the first of them (line {line}) is read")
        )
    if job.gpu and "gpu" not in asked.flags and "gpu" not in reading.run:
        origin = Origin(script.source, job.line_of(job.said), job.said)
        reading = replace(reading, run={**reading.run, "gpu": job.gpu}, origins={**reading.origins, "gpu": origin})
    return replace(reading, source=script.source, warnings=tuple(warnings), assumptions=(*reading.assumptions, told))


def _unknown(job: Job) -> str:
    """What to say where no command is one of a trainer that is known."""
    started = [shorten(launch.program) for launch in _launches(job)]
    if not started:
        return (
            "no command that trains was found in it: a launcher (accelerate, torchrun, deepspeed, python) and a script"
        )
    return (f"{', '.join(started[:3])}: no trainer that is known by its arguments; write what it does as a run file "
            "(memcalc schema run), or say what reads it with --from")  # fmt: skip
