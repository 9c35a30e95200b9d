"""Recommend: from a run that does not fit to the cheapest one that does."""
