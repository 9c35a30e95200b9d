"""The throughput model: held to what others measured, and to the arithmetic it states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.gpus import gpu
from memcalc.presets import find
from memcalc.recommender.cost import price_of, usd_per_million
from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.published import everything, published
from memcalc.recommender.throughput import Load, bubble, bus, pace
from memcalc.recommender.work import Work
from memcalc.run.validation import parse_run
from tests.recommender.published import BEGIN, END, README, table

if TYPE_CHECKING:
    from memcalc.recommender.values import Published

MILLION = Work(forward=10**15, backward=2 * 10**15, attention=0, made=0)


@pytest.mark.parametrize("row", everything(), ids=lambda row: f"{row.model}-{row.gpu}-{row.gpus}")
def test_published_throughput(row: Published) -> None:
    """Within a quarter of every figure, with no constant fitted to them."""
    assert row.predicted == pytest.approx(row.measured, rel=0.25)


def test_published_figures_of_the_same_gpu_are_shown_the_same_model_first() -> None:
    assert published("llama-3-70b", ["a100-80gb"])[0].model == "llama-3-70b"
    assert {row.gpu for row in published("gpt2", ["h100-80gb"])} == {"h100-80gb"}
    assert published("gpt2", ["t4"]) == ()


def test_the_readme_shows_the_table_as_it_is() -> None:
    """`python -m tests.recommender.published` writes it anew."""
    assert README.read_text("utf-8").partition(BEGIN)[2].partition(END)[0] == table()


def test_products_alone() -> None:
    """3e15 operations at the 794.5 TFLOPS that were attained on an H100."""
    found = pace(MILLION, Load(), gpu("h100-80gb"))
    assert found
    assert found.seconds == pytest.approx(3e15 / 794.5e12)
    assert found.busy == pytest.approx(794.5 / 989.4)


def test_what_is_made_is_moved_twice() -> None:
    shares = find("overheads", "speed")
    found = pace(Work(0, 0, 0, made=10**12), Load(), gpu("h100-80gb"))
    assert found
    assert found.seconds == pytest.approx(2 * 10**12 / (3350e9 * shares["memory"]))


def test_the_volumes_of_communication() -> None:
    """Over 8 GPUs, 7/8 of: gradients twice (ddp); weights twice and gradients once (fsdp)."""
    card, idle = gpu("h100-80gb"), Work(0, 0, 0, 0)
    speed = 450e9 * find("overheads", "speed")["link"]
    load = Load(gpus=8, data=8, weights=10**12, gradients=10**12)
    for strategy, volumes in (("ddp", 2), ("zero2", 2), ("zero3", 3), ("fsdp", 3)):
        found = pace(idle, load._replace(strategy=strategy), card)
        assert found
        assert found.parts["communication"] == pytest.approx(volumes * 7 / 8 * 10**12 / speed), strategy


def test_computation_hides_what_overlaps_with_it() -> None:
    load = Load(gpus=8, data=8, strategy="fsdp", weights=10**9, gradients=10**9)
    found = pace(MILLION, load, gpu("h100-80gb"))
    assert found
    assert found.parts["communication"] == 0


def test_between_nodes_the_network_is_the_bus() -> None:
    shares = find("overheads", "speed")
    assert bus(gpu("a100-80gb"), 8, shares) == pytest.approx(240e9)
    assert bus(gpu("a100-80gb"), 16, shares) == pytest.approx(160e9)
    assert bus(gpu("rtx-4090"), 2, shares) == pytest.approx(10e9)


def test_a_pipeline_fills_and_drains() -> None:
    """(p - 1) / m: 7 / 32 for eight stages and 32 micro batches."""
    assert bubble(8, 32) == 7 / 32
    assert bubble(1, 1) == 0


def test_offloaded_states_travel_and_are_updated_on_the_host() -> None:
    found = pace(MILLION, Load(weights=10**9, gradients=10**9, hosted=12 * 10**9), gpu("h100-80gb"))
    assert found
    lane = gpu("h100-80gb").pcie / 2 * 1e9 * 0.8
    assert found.parts["offload"] == pytest.approx(2e9 / lane + 2 * 12e9 / 200e9)


def test_a_bare_size_has_no_pace() -> None:
    assert pace(MILLION, Load(), gpu("80GiB")) is None
    assert pace(MILLION, Load(dtype="bf16"), gpu("v100-32gb")) is None


def test_price() -> None:
    assert price_of(gpu("h100-80gb"), 3.5) is not None
    assert usd_per_million(28.8, 1000) == pytest.approx(8.0)


def test_what_divided_models_send() -> None:
    """Llama 3 8B: 32 layers, 4096 wide, 8 of 32 heads for keys and values, 2 bytes; 2048 tokens of a rank."""
    evaluator = Evaluator()

    def sent(**parallel: int) -> int:
        run = parse_run(
            {"model": "llama-3-8b", "gpus": 8, "seq_len": 2048 * parallel.get("context", 1), "parallel": parallel}
        )
        plan = evaluator.plan(run)
        assert plan
        return evaluator.load(plan, "adamw", 1, 0).tensor_traffic

    channel = 32 * 2048 * 2
    assert sent(tensor=8) == channel * 4 * 2 * 7 * 4096 // 8
    assert sent(context=4) == channel * 3 * 2 * 3 * 4096 * 8 // 32
    assert sent() == 0
