"""Rules of the kernel's that lead an app's connections through its sidecar: made, looked at, applied and taken out."""
