"""Load tests: a burst and a sustained rate through a mesh, with criteria that set the exit code."""
