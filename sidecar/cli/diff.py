"""What a reload with a file would change in a running sidecar: ``sidecar diff``, and ``sidecar check --against``."""

from __future__ import annotations

import json
import sys
from typing import Final

from sidecar.agent.plan import Plan, plan
from sidecar.agent.plan_report import as_dict, lines
from sidecar.cli.admin_client import Admin, CommandError, token
from sidecar.config.errors import ConfigError
from sidecar.config.load import load_file, load_text
from sidecar.config.schema import Config
from sidecar.config.show import effective, text

FINE: Final = 0
#: ``check --against``: a reload would be refused, or the sidecar cannot be asked.
REFUSED: Final = 1
#: ``diff``: something would change; a reload would be refused; the sidecar cannot be asked.
DIFFERENT: Final = 1
DIFF_REFUSED: Final = 3
NOT_ASKED: Final = 4


def check_against(path: str, url: str, token_file: str, *, as_json: bool) -> int:
    """Print what a reload with the file at ``path`` (``-``: standard input) would change in the sidecar whose admin API
    is at ``url``. Secrets are not compared, as they are not shown there; neither is what waits in its queues. Raises
    :class:`ConfigError` when the file is wrong."""
    found = _compared("check", path, url, token_file, "--against URL", as_json=as_json)
    return REFUSED if found is None or found.refused else FINE


def diff(path: str, url: str, token_file: str, *, as_json: bool) -> int:
    """Do the same, and tell by the exit code whether anything would change."""
    found = _compared("diff", path, url, token_file, "--admin URL", as_json=as_json)
    if found is None:
        return NOT_ASKED
    if found.refused:
        return DIFF_REFUSED
    return FINE if found.empty else DIFFERENT


def _compared(command: str, path: str, url: str, token_file: str, hint: str, *, as_json: bool) -> Plan | None:
    """Print the plan, and return it; None: the sidecar cannot be asked."""
    new = load_file(path)
    try:
        found = plan(_running(url, token_file, hint), _as_shown(new, path))
    except CommandError as error:
        print(f"sidecar {command}: {error}", file=sys.stderr)
        return None
    if as_json:
        print(json.dumps(as_dict(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return found


def _running(url: str, token_file: str, hint: str) -> Config:
    """The configuration of the sidecar at ``url``. Raises :class:`CommandError`."""
    shown = Admin(url, token(token_file), hint).ask("GET", "/config")
    try:
        return load_text(text(shown), url, {})
    except ConfigError as error:
        raise CommandError(f"{url} runs with a configuration that this version does not know: {error}") from error


def _as_shown(config: Config, filename: str) -> Config:
    """``config`` as the admin API would show it, so that the two can be compared."""
    return load_text(text(effective(config)), filename, {})
