"""``sidecar validate``: checks a mesh of running processes, section by section, and leaves nothing behind."""
