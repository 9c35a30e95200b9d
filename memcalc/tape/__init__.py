"""The tape: what autograd really keeps, when the peak comes, and what it is made of."""

from memcalc import frames

frames.install()  # before any of its modules is loaded
