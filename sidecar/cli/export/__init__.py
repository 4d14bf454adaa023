"""``sidecar export``: what others than sidecars need to know of a mesh: Kong, HAProxy, Prometheus."""
