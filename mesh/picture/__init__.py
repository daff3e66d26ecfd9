"""What a node makes of its peers: what it saw of them, what others say, and how they are."""
