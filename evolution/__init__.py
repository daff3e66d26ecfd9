"""Merging, evaluating and promoting models over the mesh. Empty until then: the package keeps its place in the layers."""
