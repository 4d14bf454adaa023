"""``sidecar drain``: let what comes in to a running sidecar finish, before its app is told to end."""

from __future__ import annotations

import sys

from sidecar.cli.admin_client import Admin, CommandError, token


def drain(url: str, token_file: str, seconds: float) -> int:
    """Ask, and wait until nothing comes in any more. 0: so it is; 1: not within ``seconds``, or it cannot be asked."""
    try:
        asked = Admin(url, token(token_file), "--admin URL")
        phase = asked.ask("POST", "/drain?wait=1", timeout=max(0.05, seconds)).get("phase")
    except CommandError as error:
        print(f"sidecar drain: {error}", file=sys.stderr)
        return 1
    if phase == "ready":
        print(f"sidecar drain: nothing comes in through {url}; it goes on until SIGTERM", file=sys.stderr)
    return 0
