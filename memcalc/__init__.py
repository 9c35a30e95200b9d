"""memcalc: what GPU memory a training run takes, before it starts."""

__version__ = "0.1.0"
