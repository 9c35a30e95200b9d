"""The way in; the only place that turns errors into exit codes."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from memcalc import __version__

BUG = 70
UNWRITABLE = 4


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code (0 to 4, or 70 for a bug of ours)."""
    words = sys.argv[1:] if arguments is None else arguments
    if words in (["--version"], ["-V"]):  # answered before anything heavy is imported
        return _version()
    from memcalc.errors import MemcalcError  # noqa: PLC0415 - dataclasses take longer than the version

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for plugins costs 10 ms at every start
    try:
        return _run(words)
    except MemcalcError as error:
        _say(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush is quiet
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("MEMCALC_TRACEBACK"):
            raise
        _say(f"bug in memcalc: {type(error).__name__}: {error}\n"
             "Please report it with this command line, at https://github.com/memcalc/memcalc/issues; "
             "MEMCALC_TRACEBACK=1 shows where it happened.")  # fmt: skip
        return BUG


def _version() -> int:
    if sys.stdout is None:
        _say("error: standard output is closed")
        return UNWRITABLE
    try:
        sys.stdout.write(f"memcalc {__version__}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"error: standard output can't be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNWRITABLE
    return 0


def _run(words: list[str]) -> int:
    gc.set_threshold(100_000)  # a command is over before it has left much garbage
    atexit.register(gc.freeze)  # else the interpreter looks through all there is on its way out, for 15 ms
    from memcalc.cli import run  # noqa: PLC0415 - typer is heavy and --version does without

    code = run(words)
    if sys.stdout is not None:  # it is where a shell has closed it
        sys.stdout.flush()
    return code


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
