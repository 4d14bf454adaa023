"""Sends what is in the spool, over connections of the sidecar's own."""
