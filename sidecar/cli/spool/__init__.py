"""``sidecar spool``: what is kept for the broker, and the messages that cannot be delivered."""
