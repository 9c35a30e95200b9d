"""Element types by their short names, and how many bytes elements of them take."""

from __future__ import annotations

from memcalc.errors import nearest_names

# bits of one element; 4-bit types are packed two to a byte
BITS: dict[str, int] = {
    "fp64": 64, "int64": 64,
    "fp32": 32, "tf32": 32, "int32": 32,
    "fp16": 16, "bf16": 16, "int16": 16,
    "fp8": 8, "int8": 8, "uint8": 8, "bool": 8,
    "fp4": 4, "int4": 4, "uint4": 4,
}  # fmt: skip
ALIASES: dict[str, str] = {
    "float64": "fp64", "double": "fp64", "float32": "fp32", "float": "fp32", "32": "fp32",
    "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "float8": "fp8", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "e4m3": "fp8",
    "long": "int64", "int": "int32", "byte": "uint8",
}  # fmt: skip


def dtype_name(text: str) -> str:
    """The short name of a dtype written in any usual way ('torch.bfloat16' -> 'bf16'); ValueError names the nearest."""
    key = str(text).lower().removeprefix("torch.")
    key = ALIASES.get(key, key)
    if key not in BITS:
        near = ", ".join(nearest_names(key, [*BITS, *ALIASES])) or ", ".join(BITS)
        raise ValueError(f"unknown dtype {text!r}; nearest: {near}")
    return key


def nbytes(elements: int, dtype: str) -> int:
    """Bytes that `elements` elements of `dtype` take, packed; a last odd half byte takes a whole one."""
    return -(-elements * BITS[dtype] // 8)
