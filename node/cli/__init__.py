"""The `weft` command: one module per verb, imported when it is used."""
