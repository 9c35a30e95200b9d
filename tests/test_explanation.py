"""The explanation adds up: its rows to the report's figures, its layers to what can be derived by hand."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

import memcalc
from memcalc import estimate, explain
from memcalc.explanation.kinds import alike, merged
from memcalc.explanation.persistent import shape_rule
from memcalc.explanation.values import Explanation, Made, Term
from memcalc.render.explanation import FORMATS, maker, product, render
from memcalc.render.page import Page
from memcalc.report import PERSISTENT

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNS: list[dict[str, Any]] = [
    {"model": "llama-2-7b", "precision": "bf16", "optimizer": "adamw-8bit"},
    {"model": "llama-2-7b", "precision": "bf16"},
    {"model": "gpt2", "checkpointing": "full", "batch_size": 4},
    {"model": "gpt2", "precision": "amp-bf16", "attention": "eager", "optimizer": {"name": "adamw", "implementation": "for-loop"}},
    {"model": "llama-3-8b", "precision": "bf16", "lora": 16},
    {"model": "llama-3-8b", "lora": 64, "quantize": "nf4", "optimizer": "paged-adamw-8bit"},
    {"model": "mixtral-8x7b", "precision": "bf16", "optimizer": "adafactor"},
    {"model": "gemma-2-2b", "precision": "bf16"},
    {"model": "t5-small", "precision": "amp-bf16", "checkpointing": "full"},
    {"model": "gpt2", "grad_accum": 4, "keep_outputs": True, "optimizer": "lion"},
    {"model": "gpt2", "gpus": 4, "sharding": "zero2", "offload": "optimizer"},
    {"model": "vit-base-patch16-224", "precision": "fp32"},
    {"model": "7b", "precision": "mixed-fp16"},
]  # fmt: skip


@pytest.fixture(params=RUNS, ids=lambda run: " ".join(map(str, run.values())), scope="module")
def both(request: pytest.FixtureRequest) -> tuple[Explanation, memcalc.Report]:
    """The explanation and the report of one run."""
    return explain(request.param), estimate(request.param)


def test_terms_and_layers_make_what_persists(both: tuple[Explanation, memcalc.Report]) -> None:
    answer, report = both
    held = {part.component: part for part in answer.persistent}
    for component in PERSISTENT:
        whole = held[component].whole if component in held else 0
        terms = held[component].terms if component in held else ()
        assert sum(term.whole for term in terms if term.device == "gpu") == whole
        assert sum(getattr(row, component) for row in answer.layers) == whole
        assert getattr(report.memory.components, component) == (held[component].bytes if component in held else 0)


def test_tensors_make_what_is_kept_and_what_is_live(both: tuple[Explanation, memcalc.Report]) -> None:
    answer, report = both
    memory = report.memory
    assert (answer.peak_allocated, answer.at_peak) == (memory.peak_allocated, memory.at_peak)
    assert answer.kept.bytes == memory.components.activations == _sum(answer.kept.operations)
    live = Counter(dict.fromkeys(("activations", "gradients", "temporary"), 0))
    for made in answer.live.operations:
        live[made.component] += made.bytes
    if answer.peaks:
        assert dict(live) == {part: getattr(memory.at_peak, part) for part in live}
    for moment in (answer.kept, answer.live):
        assert sum(share.bytes for share in moment.modules) == moment.bytes == _sum(moment.operations)
        assert all(made.times * made.each == made.bytes > 0 for made in moment.operations)


def test_the_highest_part_of_the_step_is_the_peak(both: tuple[Explanation, memcalc.Report]) -> None:
    answer, report = both
    if answer.peaks:
        assert answer.peaks[0].bytes == report.memory.peak_allocated
        assert [peak.below for peak in answer.peaks] == [answer.peaks[0].bytes - peak.bytes for peak in answer.peaks]
        parts = {peak.part: peak.bytes for peak in answer.peaks}
        assert parts["optimizer"] == report.memory.phases.optimizer
        assert max(parts["forward"], parts.get("loss", 0)) >= report.memory.phases.forward
        assert max(parts["backward"], parts.get("loss", 0)) >= report.memory.phases.backward


def _sum(rows: Iterable[Made]) -> int:
    return sum(made.bytes for made in rows)


# --- Llama-2-7B, bf16, batch 1 x 2048, sdpa, by hand: see tests/tape/test_llama.py for where each tensor comes from

U = 2048 * 4096 * 2  # tokens x channels in bf16
LAYERS, HEADS, WIDTH, VOCAB = 32, 32, 11008, 32000
BY_HAND = {  # kind of layer: bytes of all of them
    "norm": (2 * LAYERS + 1) * (4 * U + 4 * 2048),  # the fp32 copy (2 u), the normed value, its output; a root a row
    "attention": LAYERS * (4 * U + 4 * HEADS * 2048),  # rotated q and k, v, the output; a log-sum-exp a row
    "mlp": LAYERS * 4 * 2048 * WIDTH * 2,  # gate, silu(gate), up, their product
}


@pytest.fixture(scope="module")
def llama() -> Explanation:
    return explain({"model": "llama-2-7b", "precision": "bf16", "batch_size": 1, "seq_len": 2048})


def test_layers_of_llama_2_7b_by_hand(llama: Explanation) -> None:
    kinds: Counter[str] = Counter()
    for share in llama.kept.modules:
        kinds[share.kind] += share.bytes
    assert {kind: kinds[kind] for kind in BY_HAND} == BY_HAND
    assert 4 * 2048 * VOCAB <= kinds["loss"] <= 4 * 2048 * VOCAB + 20_000  # log-softmax in fp32, and labels
    modules = {share.module: share.bytes for share in llama.kept.modules}
    assert modules["model.layers.{0..31}.mlp"] == BY_HAND["mlp"]
    assert modules["model.layers.{0..31}.self_attn"] == BY_HAND["attention"]


def test_tensors_of_llama_2_7b_by_hand(llama: Explanation) -> None:
    """What a layer keeps, as (operation, bytes in u or exactly), each as often as there are layers."""
    found = {(made.path.rpartition(".")[2], made.operation, made.dtype): made for made in llama.kept.operations}
    for key, times, each in [
        (("input_layernorm", "cast", "fp32"), 32, 2 * U),
        (("input_layernorm", "cast", "bf16"), 32, U),
        (("input_layernorm", "mul", "bf16"), 32, U),
        (("input_layernorm", "rsqrt", "fp32"), 32, 8192),
        (("self_attn", "add", "bf16"), 64, U),
        (("v_proj", "linear", "bf16"), 32, U),
        (("self_attn", "sdpa: fused kernel", "bf16"), 32, U),
        (("self_attn", "sdpa: fused kernel", "fp32"), 32, 262_144),
        (("gate_proj", "linear", "bf16"), 32, 2048 * WIDTH * 2),
        (("mlp", "silu", "bf16"), 32, 2048 * WIDTH * 2),
        (("up_proj", "linear", "bf16"), 32, 2048 * WIDTH * 2),
        (("mlp", "mul", "bf16"), 32, 2048 * WIDTH * 2),
    ]:
        assert (found[key].times, found[key].each) == (times, each), key
    assert found["input_layernorm", "cast", "fp32"].function.startswith("LlamaRMSNorm.forward")
    assert found["mlp", "mul", "bf16"].function.startswith("LlamaMLP.forward")


def test_what_persists_of_llama_2_7b(llama: Explanation) -> None:
    (weights,) = llama.persistent[0].terms
    assert product(weights) == "6 738 415 616 parameters x 2 B (bf16)"
    assert [(t.what, t.shape, t.device) for t in llama.persistent[2].terms] == [
        ("exp_avg", "like the parameter", "gpu"), ("exp_avg_sq", "like the parameter", "gpu"), ("step", "one number", "host"),
    ]  # fmt: skip
    assert {row.kind: (row.count, row.elements) for row in llama.layers} == {
        "mlp": (32, 32 * 3 * 4096 * 11008), "attention": (32, 32 * 4 * 4096 * 4096), "embedding": (1, 32000 * 4096),
        "head": (1, 32000 * 4096), "norm": (65, 65 * 4096),
    }  # fmt: skip


def test_rules_of_thumb_beside_what_is_so(llama: Explanation) -> None:
    sixteen, layers = llama.rules_of_thumb
    assert (sixteen.says, sixteen.off_percent) == (16 * 6_738_415_616, 100.0)  # bf16 states take 8 bytes in all
    assert layers.says == 32 * 34 * 2048 * 4096
    assert layers.bytes == BY_HAND["norm"] - (4 * U + 8192) + BY_HAND["attention"] + BY_HAND["mlp"]
    assert layers.off_percent == pytest.approx(100 * (layers.says / layers.bytes - 1), abs=0.05)


def test_adapters_and_packed_weights_have_rows_of_their_own() -> None:
    answer = explain(RUNS[5])
    rows = {row.kind: row for row in answer.layers}
    assert rows["adapters"].gradients == answer.persistent[1].whole > 0
    assert rows["mlp, packed"].gradients == rows["attention, packed"].optimizer_states == 0
    paged = [term for term in answer.persistent[-1].terms if term.device == "paged"]
    assert {term.what for term in paged} == {"state1", "state2"}


CLAIMS: list[tuple[dict[str, Any], tuple[str, ...]]] = [  # run, what the corrections speak of
    ({"model": "llama-2-7b", "precision": "fp32"}, ("12 bytes per parameter", "2 bytes per parameter", "gradients alone")),
    ({"model": "llama-3-8b", "lora": 16}, ("with adapters",)),
    ({"model": "gpt2", "optimizer": "adafactor"}, ("square root",)),
    ({"model": "gpt2", "optimizer": "lion"}, ("Lion",)),
    ({"model": "gpt2", "optimizer": "adamw-8bit"}, ("2048 elements",)),
    ({"model": "llama-2-7b", "optimizer": "adamw-8bit", "gpu": "a100-80gb", "batch_size": 4},
     ("2048 elements", "a100-80gb holds", "fit a100-80gb")),
    ({"model": "gpt2", "optimizer": {"name": "sgd", "momentum": 0.9}, "precision": "fp32"}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("run", "speaks_of"), CLAIMS, ids=lambda value: str(value)[:60])
def test_corrections_concern_the_run_alone(run: dict[str, Any], speaks_of: tuple[str, ...]) -> None:
    found = explain(run).corrections
    assert len(found) == len(speaks_of)
    for correction, words in zip(found, speaks_of, strict=True):
        assert words in correction.claim


def test_shape_rules_in_words() -> None:
    assert shape_rule((4096, 11008), (4096, 11008)) == "like the parameter"
    assert shape_rule((), (4096, 11008)) == "one number"
    assert shape_rule((4096,), (4096, 11008)) == "one per row"
    assert shape_rule((11008,), (4096, 11008)) == "one per column"
    assert shape_rule((4096 * 11008 // 256,), (4096, 11008)) == "one per block of 256"
    assert shape_rule((16, 11008), (4096, 11008)) == "16x11008"


def test_paths_that_are_alike_become_one_pattern() -> None:
    assert alike("model.layers.{0..31}.mlp") == alike("model.layers.7.mlp") == "model.layers.*.mlp"
    assert alike("conv1.h2.0") == "conv1.h2.*"
    assert merged(["layers.{0,2}.mlp", "layers.{1,3..5}.mlp", "layers.6.mlp"]) == "layers.{0..6}.mlp"
    assert merged(["block.0.layer.0", "block.{1..11}.layer.1"]) == "block.{0..11}.layer.{0..1}"
    assert merged(["lm_head"]) == "lm_head"


def test_products_in_words() -> None:
    term = Term(what="state1", dtype="uint8", tensors=3, elements=1000, whole=1000, shape="like the parameter")
    assert product(term, named=False) == "1 000 x 1 B (uint8), like the parameter"
    odd = Term(what="x", dtype="fp4", tensors=1, elements=3, whole=2)
    assert product(odd) == "3 x in fp4"


@pytest.mark.parametrize(
    ("function", "operation", "said"),
    [
        ("LlamaMLP.forward: down(act(gate(x)) * up(x))", "mul", "LlamaMLP.forward: mul"),
        ("nn.Linear, or what takes its place", "linear", "nn.Linear"),
        ("nn.Linear, or what takes its place", "linear backward", "nn.Linear backward"),
        ("nn.functional.cross_entropy, or else", "cross_entropy: log_softmax backward", "F.cross_entropy: log_softmax backward"),
        ("", "gradient of the loss", "gradient of the loss"),
    ],
)  # fmt: skip
def test_who_makes_a_tensor(function: str, operation: str, said: str) -> None:
    made = Made(component="", kind="", module="", path="", operation=operation, function=function, shape=(), dtype="",
                times=1, each=1, bytes=1)  # fmt: skip
    assert maker(made) == said


def test_every_format_says_the_same(llama: Explanation) -> None:
    page = Page()
    document = json.loads(render(llama, "json", page))
    assert (document["schema_version"], document["kind"]) == ("1.0", "explain")
    assert document == llama.model_dump()
    rows = list(csv.DictReader(StringIO(render(llama, "csv", page))))
    assert sum(int(row["bytes"]) for row in rows if row["section"] == "kept") == llama.kept.bytes
    assert sum(int(row["bytes"]) for row in rows if row["section"] == "live") == llama.live.bytes
    assert "kind: explain" in render(llama, "yaml", page)
    assert "| 5.38 GiB | 46.0 % | mlp | model.layers.{0..31}.mlp |" in render(llama, "markdown", page)
    assert set(FORMATS) == {"table", "json", "yaml", "csv", "markdown"}


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_no_line_is_wider_than_its_page(both: tuple[Explanation, memcalc.Report], width: int) -> None:
    text = render(both[0], "table", Page(width=width), everything=True)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b[" not in text


def test_the_first_rows_or_all(llama: Explanation) -> None:
    short, whole = (render(llama, "table", Page(), everything=everything) for everything in (False, True))
    assert "… 5 more" in short
    assert " more" not in whole
    assert len(whole.splitlines()) > len(short.splitlines())


def test_the_same_run_is_explained_in_the_same_bytes() -> None:
    first, second = (explain({"model": "gpt2"}).model_dump_json() for _ in range(2))
    assert first == second


def test_estimate_loads_nothing_of_it_and_json_no_rich() -> None:
    for words, unwanted in (
        ("estimate gpt2 --format json", ("memcalc.explanation", "memcalc.cli.explain")),
        ("explain gpt2 --format json", ("rich.console", "pydantic")),
    ):
        script = f"import sys; from memcalc.__main__ import main; main({words.split()!r}); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert not set(done.stderr.split()) & set(unwanted), words
