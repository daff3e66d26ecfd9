"""From logits to a token: what changes them, and the draw itself."""
