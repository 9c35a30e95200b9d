"""How fast memcalc is, in numbers: `python tests/bench.py`. Nothing here passes or fails.

CPU seconds of whole commands (the best of several runs, user and system time of the child), and milliseconds of
`estimate()` in this process for presets of every size.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from memcalc import estimate
from memcalc.presets import names

COMMANDS = [
    "--version",
    "estimate --model llama-7b --opt adamw8bit --format json",
    "estimate --model llama-3.1-405b --format json",
    "estimate --model llama-7b --opt adamw8bit",
    "gpus h100 --format json",
    "recommend llama-3-8b --gpu h100 --gpus 1 --format json",
    "recommend llama-3-8b --gpu h100 --gpus 1..8 --format json",
    "max batch_size llama-3-8b --lora 16 --gpu h100",
    "compare llama-3-8b --gpu h100 --sweep optimizer=adamw,adamw-8bit",
    "models",
    "optimizers",
]
MODELS = ["gpt2", "llama-2-7b", "llama-3.1-405b", "mixtral-8x7b", "bert-base", "t5-small"]
RUNS = 5


def child_seconds(words: list[str]) -> float:
    """CPU seconds of one memcalc process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "memcalc", *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_process(run: dict[str, object]) -> float:
    """Seconds of one estimate, imports and preset files already read."""
    estimate(run)
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        estimate(run)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    for command in COMMANDS:
        best = min(child_seconds(command.split()) for _ in range(RUNS))
        print(f"{best:6.3f} s CPU  memcalc {command}")
    for model in MODELS:
        print(f"{1000 * in_process({'model': model}):6.2f} ms  estimate {model}")
    slowest = sorted(((in_process({"model": name}), name) for name in names("models")), reverse=True)[:8]
    print("slowest presets:", ", ".join(f"{name} {1000 * seconds:.1f} ms" for seconds, name in slowest))


if __name__ == "__main__":
    main()
