"""aiohttp, whose client asks Consul and RabbitMQ's management API. Who asks neither saves 10 MiB."""

from __future__ import annotations

import os


def load() -> None:
    """Import it. It reads the certificate authorities meanwhile, for a default that nothing in here uses (TLS to Consul
    has a context of its own): 2 MB of memory and a third of a second, unless it finds none."""
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(before, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
