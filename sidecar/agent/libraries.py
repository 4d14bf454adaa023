"""Whether what a configuration asks for is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sidecar.config.schema import Config


def require_libraries(config: Config, filename: str) -> None:
    """Raise :class:`ConfigError` when something that it asks for is not installed."""
    problems: list[Problem] = []
    for upstream in config.upstreams.values():
        if upstream.amqp is not None and upstream.amqp.credentials is not None:
            from sidecar.amqp.monitor.connection import missing_library

            if missing := missing_library():
                problems.append(Problem(f"upstreams.{upstream.name}.amqp.credentials", missing))
    if problems:
        raise ConfigError(filename, problems)
