"""task-decomposition-service, which stands at 10030: a task in, a graph of steps out."""
