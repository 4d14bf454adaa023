"""Publishing over connections of the sidecar's own, with confirms."""
