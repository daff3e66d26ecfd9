"""Bugs planted on purpose, one at a time: a harness that finds none of them proves nothing."""
