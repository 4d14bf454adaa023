"""Watches the depth of queues and alarms over connections of its own."""
