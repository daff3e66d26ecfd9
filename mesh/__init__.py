"""Who is there, how far, how good; how state moves and changes safely."""
