"""Packing: how a library computes with the weights that it keeps packed, as the preset of the storage says."""

from __future__ import annotations

from typing import Literal

from memcalc.dataclass import dataclass

Product = Literal["", "dequantize", "int8", "fp8", "fused"]


@dataclass(frozen=True, slots=True)
class Packing:
    """The facts of one library's products with packed weights, and of peft's layers around them.

    `product` is how it multiplies ('dequantize': a whole weight is unpacked for each product, forward and backward; 'int8':
    integers are multiplied; 'fp8' and 'fused': a kernel reads what is packed, and only the backward pass unpacks; '': no
    weight is packed), `saves_input` whether it keeps its input for the backward pass, which frozen weights do not need,
    `keeps_weight` whether autograd sees the product with the unpacked weight, and keeps that; `copies` how many more such
    matrices are there while it is unpacked. With `parametrized`, stacked experts are unpacked whole by a parametrization.

    peft has `own_layers` for it: of no method, of 'lora' alone, or of 'all' that follow it. Its `casts` are of what the
    adapter's matrices put out ('product'), of that when it is scaled ('scaled'), or of the 'sum' with the base's output.
    """

    product: Product = ""
    saves_input: bool = False
    keeps_weight: bool = False
    copies: int = 0
    parametrized: bool = False
    own_layers: Literal["", "lora", "all"] = ""
    casts: Literal["product", "scaled", "sum"] = "sum"


UNPACKED = Packing()
