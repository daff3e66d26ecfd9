"""Where to listen, whom to dial at which address first, and hints from the link and the DNS."""
