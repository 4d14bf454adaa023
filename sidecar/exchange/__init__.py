"""What HTTP and TCP exchanges share: the filter contract, hooks, routes, and the ports they come in at."""
