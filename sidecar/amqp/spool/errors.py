"""What is wrong with a spool."""

from __future__ import annotations

from sidecar.config.errors import ConfigError, Problem


class SpoolError(ConfigError):
    """The spool cannot be used, or could not keep what it was given; the text says why, in words for an operator."""

    def __init__(self, text: str) -> None:
        super().__init__("amqp.spool", [Problem("", text)])
        self.text = text
