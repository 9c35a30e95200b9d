"""Recurrent mixers: the tensors they hold beside their projections."""

from __future__ import annotations

from memcalc.blocks.hyper import HyperConnection, HyperHead
from memcalc.blocks.rwkv import ChannelMix, TimeMix
from memcalc.blocks.ssm import GatedDelta, KimiDelta, Lightning, Mamba, Mamba2, MambaHeads, RgLru
from memcalc.tensors import tensors


def own(block: object) -> dict[str, tuple[int, ...]]:
    return {t.name.partition(".")[2]: t.shape for t in tensors(block)}  # type: ignore[arg-type]


def test_mamba_decays_every_state_of_every_channel() -> None:
    assert own(Mamba("m", inner=6, state=4)) == {"A_log": (6, 4), "D": (6,)}


def test_mamba_2_decays_by_heads() -> None:
    assert own(Mamba2("m", heads=3)) == {"dt_bias": (3,), "A_log": (3,), "D": (3,)}


def test_a_delta_net_decays_by_value_heads_and_kimis_by_channels() -> None:
    assert own(GatedDelta("m", value_heads=3)) == {"dt_bias": (3,), "A_log": (3,)}
    kimi = own(KimiDelta("m", value_heads=3, value_dim=4, decay_shape=(1, 1, 3, 1)))
    assert kimi == {"forget_gate.dt_bias": (12,), "forget_gate.A_log": (1, 1, 3, 1)}


def test_zambas_heads_select_by_themselves() -> None:
    assert own(MambaHeads("m", inner=6, state=4, dt_rank=2, heads=3)) == {
        "x_proj_weight": (3, 10, 2), "dt_proj_weight": (3, 2, 2), "dt_proj_bias": (3, 2), "A_log": (3, 2, 4), "D": (3, 2),
    }  # fmt: skip


def test_lightning_attentions_decays_are_buffers() -> None:
    assert all(t.buffer for t in tensors(Lightning("m", heads=2, chunk=4)))
    assert own(Lightning("m", heads=2, chunk=4))["diagonal_decay"] == (1, 2, 4, 4)


def test_griffins_gates_are_block_diagonal() -> None:
    lru = own(RgLru("m", width=6, heads=3))
    assert lru["rg_lru.input_gate_weight"] == (3, 2, 2)
    assert lru["rg_lru.recurrent_gate_bias"] == (3, 2)


def test_rwkv_mixes_the_input_and_decays_inside() -> None:
    assert own(TimeMix("m", hidden=4, inner=6))["time_decay"] == (6,)
    assert own(ChannelMix("m", hidden=4)) == {"time_mix_key": (1, 1, 4), "time_mix_receptance": (1, 1, 4)}


def test_hyper_connections_weigh_lanes_in_out_and_among_each_other() -> None:
    assert own(HyperConnection("m", lanes=4, width=8)) == {"fn": (24, 32), "base": (24,), "scale": (3,)}
    assert own(HyperHead("m", lanes=4, width=8)) == {"hc_fn": (4, 32), "hc_base": (4,), "hc_scale": (1,)}
