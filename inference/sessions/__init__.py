"""Sessions: one request's way through the stages, and its tokens exactly once.

`session`, `stage` and `journal` are the rules; `entry`, `shard` and `relay` drive them.
"""
