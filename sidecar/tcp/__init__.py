"""TCP ports."""
