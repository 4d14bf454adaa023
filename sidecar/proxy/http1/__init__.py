"""HTTP/1.1: heads and bodies without I/O, and the two ends of a connection."""
