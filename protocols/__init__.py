"""Bytes and rules of the wire: messages, frames, limits, errors and the seams. No I/O at all."""
