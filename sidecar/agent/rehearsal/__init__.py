"""Other settings, tried against what was recorded: in a process of its own, by the data plane's own code."""
