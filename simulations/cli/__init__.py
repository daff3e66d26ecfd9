"""`weft sim`: one module per command, imported when it is used."""
