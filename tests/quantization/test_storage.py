"""Bytes of quantised weights against those measured with the libraries, or read in their source."""

from __future__ import annotations

import pytest

from memcalc.errors import MemcalcError
from memcalc.quantization import scheme, weight_storage

# bitsandbytes 0.50, torchao 0.18: storages of one weight, measured; {part: bytes}
MEASURED = [
    ("nf4", (4096, 4096), {"packed": 8388608, "absmax": 1048576, "code": 64}),
    ("nf4-double", (4096, 4096), {"packed": 8388608, "absmax": 262144, "code": 64, "nested_absmax": 4096,
                                  "nested_code": 1024, "offset": 4}),
    ("fp4", (11008, 4096), {"packed": 22544384, "absmax": 2818048, "code": 64}),
    ("nf4-double", (11008, 4096), {"packed": 22544384, "absmax": 704512, "code": 64, "nested_absmax": 11008,
                                   "nested_code": 1024, "offset": 4}),
    ("fp4-double", (1024, 4096), {"packed": 2097152, "absmax": 65536, "code": 64, "nested_absmax": 1024,
                                  "nested_code": 1024, "offset": 4}),
    ("nf4", (130, 33), {"packed": 2145, "absmax": 272, "code": 64}),
    ("nf4-double", (130, 33), {"packed": 2145, "absmax": 68, "code": 64, "nested_absmax": 4, "nested_code": 1024,
                               "offset": 4}),
    ("fp4-double", (64, 64), {"packed": 2048, "absmax": 64, "code": 64, "nested_absmax": 4, "nested_code": 1024,
                              "offset": 4}),
    ("int8", (4096, 4096), {"CB": 16777216, "SCB": 16384}),
    ("int8", (11008, 4096), {"CB": 45088768, "SCB": 44032}),
    ("int8", (130, 33), {"CB": 4290, "SCB": 520}),
    ("torchao-int8", (4096, 4096), {"qdata": 16777216, "scale": 16384, "zero_point": 4096}),
    ("torchao-int8", (11008, 4096), {"qdata": 45088768, "scale": 44032, "zero_point": 11008}),
    ("torchao-float8", (11008, 4096), {"qdata": 45088768, "scale": 44032}),
    ("torchao-intx", (4096, 4096), {"qdata": 16777216, "scale": 8192, "zero_point": 4096}),
    ("torchao-intx", (11008, 4096), {"qdata": 45088768, "scale": 22016, "zero_point": 11008}),
]  # fmt: skip

# read in the libraries' source: what is registered for one weight [outputs, inputs]
READ = [
    ("gptq", (4096, 4096), 8732672),
    ({"name": "gptq", "group_size": -1}, (4096, 4096), 4096 * 4096 // 2 + 4 * 4096 // 8 + 2 * 4096 + 4 * 4096),
    ({"name": "gptq", "bits": 3}, (64, 100), 4 * 10 * 64 + 4 * 6 + 2 * 64 + 4 * 100),  # 300 bits: ten words
    ({"name": "gptq", "bits": 8, "group_size": 32}, (64, 96), 4 * 24 * 64 + 4 * 3 * 16 + 2 * 3 * 64 + 4 * 96),
    ("awq", (4096, 4096), 8716288),
    ("hqq", (4096, 4096), 9437184),
    ({"name": "hqq", "bits": 8, "group_size": 128}, (256, 128), 256 * 128 + 2 * 2 * 256),
    ({"name": "hqq", "bits": 3}, (64, 64), 4 * 7 * 64 + 2 * 2 * 64),  # 64 rows of a group: 7 words of ten
    ("mxfp4", (32, 2880, 2880), 32 * 2880 * 2880 * 17 // 32),
    ("scaled-fp8", (3072, 3072), 3072 * 3072 + 2 * 3072 * 48),
    ("fp8", (2112, 7168), 2112 * 7168 + 4 * 17 * 56),
    ("fp8", (8, 256, 128), 8 * (256 * 128 + 4 * 2)),
    ("torchao-int4", (4096, 4096), 4096 * 2048 + 2 * 2 * 32 * 4096),
    ("torchao-int4", (4096, 4100), 0),  # inputs not in groups: kept as it is
    ("torchao-int4-tile", (4090, 1152), 4096 * 2048 // 2 + 2 * 2 * 16 * 4096),  # padded to 8 x 1024
    ("torchao-nf4", (4096, 4096), 4096 * 2048 + 262144 + 2 * 1024 + 2 + 32),
    ({"name": "nf4", "block_size": 128}, (4096, 4096), 8388608 + 4 * 131072 + 64),
    ({"name": "nf4", "storage": "bf16"}, (4096, 4096), 9437248),
    ({"name": "nf4", "bnb_4bit_use_double_quant": True}, (4096, 4096), 8655940),
]


@pytest.mark.parametrize(("name", "shape", "parts"), MEASURED, ids=[f"{m[0]}-{m[1][0]}x{m[1][1]}" for m in MEASURED])
def test_parts_as_measured(name: str, shape: tuple[int, ...], parts: dict[str, int]) -> None:
    assert sorted(part.bytes for part in weight_storage(name, shape)) == sorted(parts.values())


@pytest.mark.parametrize(("spec", "shape", "total"), READ, ids=[f"{i}-{r[1]}" for i, r in enumerate(READ)])
def test_totals_as_read_in_the_source(spec: str | dict[str, object], shape: tuple[int, ...], total: int) -> None:
    assert sum(part.bytes for part in weight_storage(spec, shape)) == total


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("load_in_4bit", "fp4"),
        ("bnb.nf4-dq", "nf4-double"),
        ("load_in_8bit", "int8"),
        ("QLoRA", "nf4"),
        ("int4", "torchao-int4"),
    ],
)
def test_names_of_the_libraries(alias: str, name: str) -> None:
    assert scheme(alias).name == name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nf5", "unknown quantisation 'nf5'. Did you mean nf4"),
        ({"bits": 4}, "quantize.name: is required"),
        ({"name": "gptq", "bits": 5}, "quantize.bits: 5 is not supported; one of 2, 3, 4, 8"),
        ({"name": "gptq", "groupsiz": 5}, "quantize.groupsiz: gptq has no such option; it has"),
        ({"name": "nf4", "double": "yes"}, "quantize.double: 'yes' is not true or false"),
        ({"name": "nf4", "block_size": 0}, "quantize.block_size: 0 is not a size"),
        ({"name": "nf4", "storage": "bf17"}, "unknown dtype 'bf17'"),
    ],
)
def test_what_can_t_be_is_refused(spec: str | dict[str, object], said: str) -> None:
    with pytest.raises(MemcalcError) as refusal:
        scheme(spec)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shape"), [("awq", (64, 100)), ("awq", (12, 128)), ("hqq", (3, 33)), ("torchao-nf4", (3, 33))]
)
def test_weights_the_library_refuses(name: str, shape: tuple[int, int]) -> None:
    with pytest.raises(MemcalcError, match="divisible"):
        weight_storage(name, shape)
