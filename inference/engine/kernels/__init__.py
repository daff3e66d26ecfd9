"""Products with a fixed weight, and the forms that weights take for them."""
