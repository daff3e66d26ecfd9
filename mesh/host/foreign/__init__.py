"""libp2p peers that are no members: identify, ping, echo, and nothing of weft."""
