"""Where members are: their records, the address book, and hints that lead to them."""
