"""HTTP requests that are stored on this host's disk until their upstream can take them, and what became of them."""
