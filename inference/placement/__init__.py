"""Who holds which layers: plans are advice, grants are promises, claims are the truth."""
