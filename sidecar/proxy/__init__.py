"""The data plane: it moves bytes, synchronously, and never waits for the control plane."""
