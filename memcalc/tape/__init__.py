"""The tape: what autograd really keeps, when the peak comes, and what it is made of."""

from memcalc.tape.measure import measure
from memcalc.tape.setting import Setting

__all__ = ["Setting", "measure"]
