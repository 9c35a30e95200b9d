"""In which order names let go when a function returns, and that no recorded step depends on how the interpreter does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memcalc import estimate
from memcalc.frames import held, ordered
from memcalc.tape.autograd import ALONE

SOURCE = '''
def plain(first, second=None, *rest):
    """Three tensors."""
    third = Tensor("third")
    if second is None:
        return frame(), third.name
    raise ValueError("stop")

def read(first, second):
    """One that an inner function reads."""
    within = lambda: first
    return frame(), within

def stopped(first, second):
    try:
        return plain(second, first)
    finally:
        log.append("unwinding")
'''
PROGRAM = """
import json, sys
from memcalc import frames
sys.meta_path.insert(0, frames.Finder)
from memcalc import estimate
from memcalc.tape import autograd
assert type(autograd.__spec__.loader) is frames.Ordered
found = [estimate(run).memory for run in json.load(sys.stdin)]
print(json.dumps([[memory.peak_allocated, memory.peak_phase, memory.reserved] for memory in found]))
"""
LLAMA = {"model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408,
         "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}  # fmt: skip
RUNS: tuple[dict[str, Any], ...] = tuple(
    {"model": LLAMA, "batch_size": 2, "seq_len": 300, "optimizer": "adamw", **more}
    for more in (
        {"precision": "bf16"},
        {"precision": "bf16-mixed", "checkpointing": "full", "attention": "eager"},
        {"precision": "bf16", "lora": {"rank": 8}, "checkpointing": {"mode": "full", "reentrant": True}},
        {"precision": "bf16-mixed", "gpus": 4, "sharding": {"strategy": "fsdp"}, "checkpointing": "full"},
    )
)


class Tensor:
    """Tells the log when it goes."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __del__(self) -> None:
        self.log.append(self.name)


def run(name: str, log: list[str]) -> Any:
    frame = lambda: sys._getframe(1)  # noqa: SLF001 - the frame that a function has left
    names: dict[str, Any] = {"Tensor": lambda word: Tensor(word, log), "frame": frame, "log": log}
    exec(ordered(SOURCE, "source.py"), names)
    return names[name]


def test_a_function_lets_go_of_its_names_in_their_order_before_its_frame_is_cleared() -> None:
    log: list[str] = []
    frame, name = run("plain", log)(Tensor("first", log))
    assert name == "third"
    assert log == ["first", "third"]
    assert frame.f_locals == {"first": None, "second": None, "rest": None, "third": None}


def test_what_an_inner_function_reads_stays() -> None:
    log: list[str] = []
    _, within = run("read", log)(Tensor("first", log), Tensor("second", log))
    assert log == ["second"]
    assert within().name == "first"


def test_an_exception_holds_names_until_it_is_handled() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="stop") as stop:
        run("stopped", log)(Tensor("first", log), Tensor("second", log))
    assert log == ["unwinding"]
    del stop
    log.clear()


def test_an_exception_lets_go_of_the_innermost_names_first() -> None:
    log: list[str] = []
    stop = ValueError()
    held(stop, {"a": Tensor("inner", log), "b": Tensor("inner's second", log), "stopped": stop})
    held(stop, {"a": Tensor("outer", log)})
    del stop
    assert log == ["inner", "inner's second", "outer"]


def test_a_docstring_and_lines_stay() -> None:
    function = run("plain", [])
    assert function.__doc__ == "Three tensors."
    assert function.__code__.co_firstlineno == 2


def test_one_variable_alone_is_told_from_two() -> None:
    one = object()
    other = one
    assert sys.getrefcount(one) == ALONE + 1
    del other
    assert sys.getrefcount(one) == ALONE


def test_steps_are_the_same_where_names_go_explicitly() -> None:
    command, here = [sys.executable, "-B", "-c", PROGRAM], Path(__file__).parents[1]
    done = subprocess.run(command, input=json.dumps(RUNS), capture_output=True, text=True, check=True, cwd=here)
    found = [estimate(run).memory for run in RUNS]
    assert json.loads(done.stdout) == [[memory.peak_allocated, memory.peak_phase, memory.reserved] for memory in found]
