"""What can be seen of a running sidecar: counters, metrics, logs, spans."""
