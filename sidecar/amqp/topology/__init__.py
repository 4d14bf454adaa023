"""Exchanges, queues and bindings: what was declared, and which queues a publish leads to."""
