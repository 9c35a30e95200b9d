"""Launch scripts: the command line of a trainer that is known, in a shell script or in a job file around one.

`accelerate launch`, `torchrun`, `deepspeed` and `python` before a script; `llamafactory-cli train`, `axolotl train`,
`trl sft`, `tune run`, `litgpt finetune`, `composer`. The options are laid over the file of settings that they name, and
what the launcher says (how many processes, FSDP or DeepSpeed) beside them; then the trainer's own reader reads it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memcalc.configs.starting import NAME, TITLE, recognises

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

__all__ = ["NAME", "TEXT", "TITLE", "read", "recognises"]

TEXT: Final = True  # it reads scripts


def read(document: Document, asked: Asked) -> Reading:
    """The run of the first training command."""
    from memcalc.configs.launched import of_commands  # noqa: PLC0415 - few files are scripts

    return of_commands(document, asked)
