"""Decoders: what a model folder says, its blocks, its weights, its text."""
