"""Part: one tensor an adapter adds to a site, named within the module."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """`name` below the module; `dtype` '' means the adapter's; a buffer is kept beside the parameters.

    `revived`: frozen where it is made, but trainable once moved to a 16-bit base module.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    buffer: bool = False
    dtype: str = ""
    revived: bool = False
