"""Who is to hold what: the pure planner and what it reckons with."""
