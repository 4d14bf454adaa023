"""workspace-isolation-service, which stands at 10031: at most ten workspaces, each a directory and processes with
limits, or a container."""
