"""What the two services share: an HTTP port, messages, Redis, trace context. None of it tries anything again, breaks a
circuit or looks for an instance: all that is dialled is a port of 127.0.0.1, behind which the sidecar does that."""
