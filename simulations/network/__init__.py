"""The internet of a simulation: links, connections and streams in memory."""
