"""The twins of what a machine gives its daemon: clock, chance, disk and worker."""
