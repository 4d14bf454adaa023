"""A client and its broker, and the frames between them."""
