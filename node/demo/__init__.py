"""`weft demo`: a mesh of real processes on this machine, and the story that is told with it."""
