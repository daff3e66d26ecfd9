"""The only door to the network: libp2p with Noise XK behind `protocols.seams.Network`."""
