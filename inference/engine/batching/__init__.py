"""Which steps are computed together, and when. All of it is pure."""
