"""Who belongs to this mesh, how to reach them, and which of them are up: joining, reconnecting, noticing silence."""
