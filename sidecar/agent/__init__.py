"""A running sidecar: put together, started, reloaded, drained."""
