"""AMQP 0-9-1 ports: a relay that understands what it passes, and can hold it back."""
