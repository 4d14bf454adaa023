"""AMQP 0-9-1 as bytes: frames, methods, tables, handshakes. No input or output."""
