"""Who one is, and who is let into a network: identities, certificates, invites, the door."""
