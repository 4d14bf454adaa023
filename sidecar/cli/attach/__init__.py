"""``sidecar attach``: what to add, so that a service of a compose file gets a sidecar."""
