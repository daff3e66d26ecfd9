"""Who lives: probes, suspicions, and the failure detector made of them."""
