"""Store-and-forward: messages that are kept on this host's disk until the broker has them."""
