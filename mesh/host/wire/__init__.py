"""From a socket to streams: encrypted frames, yamux, and what waits to be sent."""
