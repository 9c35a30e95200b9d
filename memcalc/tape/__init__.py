"""The tape: what autograd really keeps, when the peak comes, and what it is made of."""

from memcalc import frames

frames.install()  # before any of its modules is loaded

from memcalc.tape.measure import measure  # noqa: E402
from memcalc.tape.setting import Setting  # noqa: E402

__all__ = ["Setting", "measure"]
