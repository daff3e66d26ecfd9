"""Gossip: what every member says, told to all the others within moments, and repaired until everybody has it."""
