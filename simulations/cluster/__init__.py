"""Whole daemons by the dozen, with the clients that use them and the faults that befall them."""
