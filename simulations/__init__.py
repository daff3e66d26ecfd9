"""The same daemons on a virtual clock, a virtual network and a disk in memory: every seam's twin for tests and scenarios."""
