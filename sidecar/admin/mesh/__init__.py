"""Who calls whom: what the sidecars of a mesh measured, gathered and put together."""
