"""Mixing tokens without position tables: Transformer-XL's relative attention, and Fourier transforms."""

from __future__ import annotations

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class RelativeAttention(Attention):
    """Scores of contents, plus scores against projected sinusoids and segments, each with a bias of its own (Dai 2019).

    What is not a linear layer is in `extra`: the projections themselves [hidden, heads, head_dim] in XLNet.
    `factorized` where sines and cosines of both positions are multiplied, instead of those of their distance (Funnel).
    """

    factorized: bool = False


@dataclass(frozen=True, slots=True)
class TokensFirst(Sequence):
    """A model whose tokens lie before the batch: what is embedded, its layers, and the dropout behind them (XLNet).

    `causal` where a token sees none that come behind it.
    """

    causal: bool = False


@dataclass(frozen=True, slots=True)
class Fourier(Block):
    """The real part of a discrete Fourier transform over tokens and channels (Lee-Thorp et al. 2021)."""


@dataclass(frozen=True, slots=True)
class Pooled(Sequence):
    """Stacks of layers between which every two tokens become one, by their mean or maximum (Funnel-Transformer).

    `queries_only` where the first layer of a stack still reads all tokens; the first token stands apart (`apart`), and
    the last is cut off for it (`cut`). `kept` where a decoder is given the hidden states.
    """

    queries_only: bool = True
    apart: bool = True
    cut: bool = True
    factorized: bool = False
    width: int = 0
    dropout: float = 0.0
    kept: bool = False
    pooling: str = "mean"


@dataclass(frozen=True, slots=True)
class Unpooled(Pooled):
    """Layers over tokens repeated as often as they were halved (`times`), and added to what the first stack put out."""

    times: int = 1
