"""Noise in its two forms, what is negotiated before and after it, and how many may be at it."""
