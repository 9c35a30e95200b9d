"""Accelerators: the memory a process really sees, the names people write, what the runtime takes."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import yaml

from memcalc import presets
from memcalc.errors import RunInvalid, UnknownName
from memcalc.gpus import Gpu, _squeezed, communicator_bytes, gpu

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
MIB = 2**20

# the smallest "total capacity of X GiB" that PyTorch printed on each; TPUs: "Used … of X G hbm" of XLA
VISIBLE_GIB = {
    "t4": "14.56", "p100-16gb": "15.89", "v100-16gb": "15.77", "v100-32gb": "31.73", "a10": "22.0", "a10g": "22.03",
    "a30": "23.5", "a40": "44.34", "a100-40gb-pcie": "39.38", "a100-40gb": "39.38", "a100-80gb-pcie": "79.14",
    "a100-80gb": "79.14", "l4": "22.03", "l40": "44.35", "l40s": "44.39", "h100-pcie": "79.1", "h100-80gb": "79.1",
    "a800-80gb": "79.33", "h800-80gb": "79.1", "h20-96gb": "95.0",
    "h100-nvl": "93.02", "h200": "139.72", "h200-nvl": "139.72", "gh200-96gb": "94.5", "b200": "178.35",
    "gb200": "184.31", "b300": "267.69", "gb300": "276.6", "rtx-2080ti": "10.57", "rtx-3060-12gb": "11.63",
    "rtx-3070": "7.66", "rtx-3080-10gb": "9.65", "rtx-3080-12gb": "11.63", "rtx-3090": "23.56", "rtx-3090ti": "23.56",
    "rtx-4060ti-16gb": "15.6", "rtx-4070": "11.5", "rtx-4070ti": "11.5", "rtx-4070ti-super": "15.56",
    "rtx-4080": "15.56", "rtx-4090": "23.51", "rtx-5070ti": "15.46", "rtx-5080": "15.46", "rtx-5090": "31.36",
    "rtx-a4000": "15.7", "rtx-a5000": "23.55", "rtx-a6000": "47.4", "rtx-6000-ada": "47.37",
    "rtx-pro-6000-blackwell": "94.97", "dgx-spark": "119.18", "mi210": "63.98", "mi250x": "63.98", "mi300x": "191.69",
    "mi325x": "255.69", "mi355x": "287.98", "rx-7900-xtx": "23.98", "gaudi2": "94.6", "gaudi3": "126.5",
    "max-1550": "64.0", "arc-a770": "15.9", "arc-b580": "11.93", "arc-pro-b60": "23.9",
    "gh200-144gb": "142.5", "tpu-v2": "7.48", "tpu-v3": "15.48", "tpu-v4": "30.75", "tpu-v5e": "15.75",
    "tpu-v5p": "95.74", "tpu-v6e": "31.25", "tpu-v7x": "94.75",
    "rtx-3080ti": "11.63", "rtx-3070ti": "7.66", "rtx-3060ti": "7.66", "rtx-4060": "7.62", "rtx-4060ti-8gb": "7.62",
    "rtx-4070-super": "11.5", "rtx-5060": "7.5", "rtx-5060ti-16gb": "15.46", "rtx-5070": "11.48", "gtx-1080ti": "10.91",
    "titan-rtx": "23.62", "quadro-rtx-8000": "47.45", "p40": "22.38", "a2": "14.54", "rtx-a4500": "19.55",
    "rtx-4000-ada": "19.5", "rtx-4500-ada": "23.5", "rtx-5000-ada": "31.4", "rx-7900-xt": "19.98", "rx-9070-xt": "15.92",
    "trainium1": "15.63", "trainium2": "23.61", "trainium3": "35.58",
}  # fmt: skip
# what nvidia-smi prints as the total, in MiB: more than any process gets
NVIDIA_SMI_MIB = {
    "t4": 15360, "a10": 23028, "a10g": 23028, "l4": 23034, "a40": 46068, "l40s": 46068, "a100-40gb": 40960,
    "a100-80gb": 81920, "a800-80gb": 81920, "h100-80gb": 81559, "h100-nvl": 95830, "h200": 143771, "b200": 183359,
    "rtx-4090": 24564, "rtx-5090": 32607, "rtx-a6000": 49140, "gh200-96gb": 97871,
}  # fmt: skip
NAMES = [
    ("h100", "h100-80gb"), ("H100 SXM", "h100-80gb"), ("h100_sxm5", "h100-80gb"),
    ("NVIDIA H100 80GB HBM3", "h100-80gb"),
    ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H100 NVL", "h100-nvl"), ("h100-94gb", "h100-nvl"), ("H200", "h200"),
    ("a100", "a100-80gb"), ("A100-80GB", "a100-80gb"), ("a100 40GB", "a100-40gb"), ("a100-40g", "a100-40gb"),
    ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
    ("A100-PCIE-40GB", "a100-40gb-pcie"),
    ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"), ("4090", "rtx-4090"), ("rtx4090", "rtx-4090"),
    ("RTX 4090", "rtx-4090"),
    ("rtx-4090-24gb", "rtx-4090"), ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("3090", "rtx-3090"),
    ("3090ti", "rtx-3090ti"),
    ("RTX 3090 Ti", "rtx-3090ti"), ("GeForce RTX 2080 Ti", "rtx-2080ti"), ("5090", "rtx-5090"), ("t4", "t4"),
    ("Tesla T4", "t4"), ("Tesla V100-SXM2-32GB", "v100-32gb"), ("v100", "v100-16gb"), ("V100-SXM2-16GB", "v100-16gb"),
    ("NVIDIA A10G", "a10g"), ("l4", "l4"), ("L40S-48GB", "l40s"), ("a6000", "rtx-a6000"),
    ("NVIDIA RTX A6000", "rtx-a6000"),
    ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"), ("mi300x", "mi300x"), ("AMD Instinct MI300X", "mi300x"),
    ("MI250", "mi250x"), ("b200", "b200"), ("NVIDIA B200", "b200"), ("b200-192gb", "b200"), ("GB200", "gb200"),
    ("NVIDIA GH200 480GB", "gh200-96gb"), ("NVIDIA B300 SXM6 AC", "b300"), ("gb10", "dgx-spark"), ("v5e", "tpu-v5e"),
    ("TPU v4", "tpu-v4"), ("trn1", "trainium1"), ("gaudi-2", "gaudi2"), ("Arc A770", "arc-a770"),
    ("7900 XTX", "rx-7900-xtx"), ("GTX 1080 Ti", "gtx-1080ti"), ("NVIDIA GeForce RTX 4070 SUPER", "rtx-4070-super"),
    ("RTX 4060 Ti", "rtx-4060ti-8gb"), ("RTX 4060 Ti 16GB", "rtx-4060ti-16gb"), ("Quadro RTX 8000", "quadro-rtx-8000"),
    ("p5.48xlarge", "h100-80gb"), ("Standard_ND96amsr_A100_v4", "a100-80gb"), ("a2-highgpu-8g", "a100-40gb"),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000-blackwell"),
]  # fmt: skip
# Metal's default working set: 2/3 of the memory up to 36 GiB, 3/4 above
APPLE = [
    ("apple-m3-max-64gb", 48 * GIB), ("M3 Max 64GB", 48 * GIB), ("m3max", 24 * GIB), ("m1-8gb", 8 * GIB * 2 // 3),
    ("apple-m2-ultra-192gb", 144 * GIB), ("m4 pro 48 GB", 36 * GIB), ("apple-m1", 8 * GIB * 2 // 3),
]  # fmt: skip
# MiB of the context with lazy loading, and 300 of kernels; bytes of the cuBLAS workspace (CublasHandlePool.cpp)
OVERHEADS = [
    ("a100", 480, 8_519_680), ("rtx-3090", 300, 8_519_680), ("l4", 430, 8_519_680), ("h100", 540, 33_554_432),
    ("b200", 612, 33_554_432), ("mi300x", 400, 134_217_728), ("mi210", 400, 33_554_432), ("80GiB", 400, 8_519_680),
]  # fmt: skip


def _cards() -> list[Path]:
    return sorted((presets.folder() / "gpus").glob("*.yaml"))


def test_every_accelerator_is_in_the_table() -> None:
    apple = {path.stem for path in _cards() if path.stem.startswith("apple-")}
    assert {path.stem for path in _cards()} == set(VISIBLE_GIB) | apple
    assert len(_cards()) == 109


@pytest.mark.parametrize(("name", "visible"), VISIBLE_GIB.items())
def test_usable_bytes_are_what_a_process_sees(name: str, visible: str) -> None:
    found = gpu(name)
    assert found.name == name
    assert found.usable == int(Fraction(visible) * GIB)
    assert found.usable_how in {"measured", "recalled", "derived"}


@pytest.mark.parametrize(("name", "mib"), NVIDIA_SMI_MIB.items())
def test_a_process_sees_a_little_less_than_nvidia_smi(name: str, mib: int) -> None:
    assert presets.find("gpus", name)["memory"]["nvidia_smi_mib"] == mib
    assert 0.3 * GIB < mib * MIB - gpu(name).usable < 2 * GIB


@pytest.mark.parametrize(("written", "name"), NAMES)
def test_names_as_people_and_drivers_write_them(written: str, name: str) -> None:
    assert gpu(written).name == name


@pytest.mark.parametrize(("written", "usable"), APPLE)
def test_unified_memory(written: str, usable: int) -> None:
    assert gpu(written).usable == usable


def test_what_was_assumed_of_a_name_is_said() -> None:
    assert "a100-40gb" in gpu("A100").assumed
    assert "h100-pcie" in gpu("h100").assumed
    assert "the smallest was taken" in gpu("m3-max").assumed
    assert gpu("g5.12xlarge").assumed == "'g5.12xlarge' has 4 of a10g; as many run as gpus says"
    assert "rtx-4060ti-16gb" in gpu("4060 ti").assumed
    assert not gpu("h100-80gb").assumed
    assert not gpu("NVIDIA H100 80GB HBM3").assumed
    assert not gpu("m3-max-64gb").assumed


@pytest.mark.parametrize(
    ("written", "usable"),
    [("80GiB", 80 * GIB), ("80 gib", 80 * GIB), ("24GB", 24 * 10**9), ("40960 MiB", 40 * GIB), ("80G", 80 * GIB),
     ("0.5TiB", 512 * GIB), ("1e3MB", 10**9)],
)  # fmt: skip
def test_a_size_is_a_gpu_with_exactly_that(written: str, usable: int) -> None:
    found = gpu(written)
    assert (found.name, found.usable, found.usable_how) == (written, usable, "given")


@pytest.mark.parametrize(("written", "context", "workspace"), OVERHEADS)
def test_what_the_runtime_takes(written: str, context: int, workspace: int) -> None:
    assert gpu(written).context == (context + 300) * MIB
    assert gpu(written).cublas_workspace == workspace


def test_a_tpu_has_neither_context_nor_workspace_nor_nccl() -> None:
    assert (gpu("tpu-v5e").context, gpu("tpu-v5e").cublas_workspace) == (0, 0)
    assert communicator_bytes(gpu("tpu-v5e"), 8) == 0


def test_communicators() -> None:
    assert communicator_bytes(gpu("h100"), 1) == 0
    assert communicator_bytes(gpu("h100"), 8) == 1100 * MIB
    assert communicator_bytes(gpu("h100"), 8, 3) == 2100 * MIB
    assert communicator_bytes(gpu("a100"), 8) == 700 * MIB
    assert communicator_bytes(gpu("l40s"), 4) == 400 * MIB
    assert communicator_bytes(gpu("h100"), 8, all_to_all=True) == 4400 * MIB


def test_rates_and_links() -> None:
    found = gpu("h100")
    assert (found.bandwidth, found.tflops["bf16"], found.reached["bf16"]) == (3350.0, 989.4, 794.5)
    assert (found.link, found.link_kind, found.pcie, found.per_node) == (900.0, "nvlink", 126.0, 8)
    assert (found.bf16, found.fp8, found.price) == (True, True, (1.99, 5.0))
    assert (gpu("l4").link, gpu("l4").link_kind) == (63.0, "")
    assert (gpu("t4").bf16, gpu("a100").fp8) == (False, False)


@pytest.mark.parametrize(
    ("written", "near"),
    [("h1000", "h100"), ("rtx 4090 laptop", "4090"), ("a100-800gb", "a100-80gb"), ("", ""), ("80", ""), ("1_000", ""),
     ("../../pyproject", ""), ("x" * 500, ""), ("mi300", "mi300x"), ("80GiBs", "")],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(written: str, near: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown GPU .*memcalc gpus") as error:
        gpu(written)
    assert near in " ".join(error.value.nearest)
    assert len(str(error.value)) < 300


def test_a_number_without_a_unit_is_told_to_have_one() -> None:
    with pytest.raises(UnknownName, match=r"say what memory it has: 80GiB"):
        gpu(80)


@pytest.mark.parametrize("written", ["-80GiB", "0GiB", "1e30GiB", "1..2GiB"])
def test_a_size_that_is_none_is_a_fault(written: str) -> None:
    with pytest.raises(RunInvalid) as error:
        gpu(written)
    assert [fault.where for fault in error.value.faults] == ["gpu"]


@pytest.mark.parametrize("path", _cards(), ids=[path.stem for path in _cards()])
def test_every_preset_is_complete(path: Path) -> None:
    card = yaml.safe_load(path.read_text("utf-8"))
    found = gpu(path.stem)
    assert card["name"] == path.stem
    assert path.read_text("utf-8").startswith("# One accelerator")
    assert {"memory", "rest"} <= set(card["source"])
    assert isinstance(found, Gpu)
    assert found.bandwidth > 0
    assert ("tflops" in card["source"]) == bool(found.tflops)
    assert ("price" in card["source"]) == bool(found.price)
    assert all(gpu(name).name == path.stem for name in card.get("instances", ()))
    assert set(card.get("shared", {})) <= {card["name"], *card.get("aliases", [])}
    assert all(gpu(alias).usable for alias in card.get("aliases", []))


def test_no_two_presets_share_a_spelling() -> None:
    spellings: dict[str, str] = {}
    for name, path in presets.index()["gpus"].items():
        assert spellings.setdefault(_squeezed(name), path) == path, name
