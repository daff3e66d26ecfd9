"""The torch side of a node: a layer range with its caches, and the process it runs in."""
