"""HTTP/1.1 on the wire: heads, bodies, and the two ends of a connection."""
