"""The torch process of a node, and the daemon's side of it."""
