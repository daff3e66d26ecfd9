"""A node as a holder: what it grants, fetches, loads, promotes and lets go of."""
