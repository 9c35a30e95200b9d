"""Blocks of two streams: the order of their parts."""

from __future__ import annotations

from memcalc.blocks.basic import Linear
from memcalc.blocks.joint import JointAttention, JointBlock, SingleBlock


def test_joint_attention_projects_both_streams() -> None:
    q, added, out, back = (Linear(name, 4, 4) for name in ("to_q", "add_q_proj", "to_out.0", "to_add_out"))
    mixer = JointAttention("attn", q=q, out=out, context=(added,), context_out=back)
    assert mixer.parts() == (q, added, out, back)
    assert JointBlock("", attention=mixer).parts() == (mixer,)
    assert SingleBlock("", up=q, out=out).parts() == (q, out)
