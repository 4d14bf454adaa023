"""The one error that a registry raises to its user."""

from __future__ import annotations


class RegistryError(Exception):
    """The registry cannot be used as it is configured; the text says what was wrong and what to do."""
