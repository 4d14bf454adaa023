"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, Final

#: Where the admin API is unless told otherwise.
DEFAULT_ADMIN: Final = "http://127.0.0.1:15000"
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


def admin_url(text: str) -> str:
    """``host:port`` as the URL of an admin API; anything else as it is, for the command to judge."""
    return f"http://{text}" if _AUTHORITY.fullmatch(text) else text


def duration(text: str) -> float:
    """Seconds, from a number of them or ``250ms``, ``30s``, ``5m``, ``1h``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; one is written 30s, 250ms, 5m or 1h")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def add_file(parser: Any, more: str = "") -> None:
    """``FILE``, which may be left out."""
    from sidecar.config.environment import CONFIG, DEFAULT_FILE, default_file

    parser.add_argument(
        "file", metavar="FILE", nargs="?", default=default_file(),
        help=f"the configuration, one YAML file per workload{more}; env:NAME is the text in that variable (default: "
        f"env:{CONFIG} where that is set, else {DEFAULT_FILE})",
    )  # fmt: skip


def add_admin(parser: Any) -> None:
    """``--admin URL``, by default what ``SIDECAR_ADMIN`` says."""
    parser.add_argument(
        "--admin", metavar="URL", type=admin_url, default=os.environ.get("SIDECAR_ADMIN") or DEFAULT_ADMIN,
        help="the sidecar's admin API, as in its admin.bind (default: SIDECAR_ADMIN in the environment, else "
        f"{DEFAULT_ADMIN})",
    )  # fmt: skip
