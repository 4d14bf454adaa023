"""HTTP ports: requests, their answers, and kept connections."""
