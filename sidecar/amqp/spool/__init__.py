"""Store-and-forward: messages that are on this host's disk until the broker has them."""
