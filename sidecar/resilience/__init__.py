"""Mechanisms: pure objects with injected time. They own no socket, no task and no clock of their own, so each can be
tested by plain calls; :mod:`sidecar.filters` applies them to traffic."""
