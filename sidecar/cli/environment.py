"""What the environment asks for, beside the configuration file."""

from __future__ import annotations

import os


def check() -> None:
    """What ``SIDECAR_SCANNER`` asks for can be had. Raises :class:`~sidecar.config.errors.ConfigError`."""
    found = os.environ.get("SIDECAR_SCANNER")
    if not found:
        return
    from sidecar.config.errors import ConfigError, Problem
    from sidecar.core.build import PYTHON, VARIABLE, C, facts

    if found not in (C, PYTHON):
        raise ConfigError(VARIABLE, [Problem("", "what is to read heads and AMQP", repr(found), f"{C}, {PYTHON}")])
    try:
        facts()
    except ImportError as error:
        advice = f"what is written in C was not built of this source ({error}); make install does it, with a C compiler"
        raise ConfigError(VARIABLE, [Problem("", advice)]) from None
