"""Layers, sessions, tokens: placement, the torch engine, and requests from end to end."""
