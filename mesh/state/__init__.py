"""How state moves and is kept: content-addressed weights, and their way from node to node."""
