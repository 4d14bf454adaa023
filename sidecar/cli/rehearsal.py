"""``sidecar check --against``: what a reload with a file would change in a running sidecar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Final

from sidecar.agent.plan import Plan, plan
from sidecar.cli.spool.source import Admin, SourceError, token
from sidecar.config.errors import ConfigError
from sidecar.config.load import load_file, load_text
from sidecar.config.schema import Config
from sidecar.config.show import effective

FINE: Final = 0
#: A reload would be refused, or the sidecar cannot be asked.
REFUSED: Final = 1


def rehearse(path: str, url: str, token_file: str, *, as_json: bool) -> int:
    """Print what a reload with the file at ``path`` (``-``: standard input) would change in the sidecar whose admin API
    is at ``url``. Secrets are not compared, as they are not shown there; neither is what waits in its queues. Raises
    :class:`ConfigError` when the file is wrong."""
    new = load_file(path)
    try:
        found = plan(_running(url, token_file), _as_shown(new, path))
    except SourceError as error:
        print(f"sidecar check: {error}", file=sys.stderr)
        return REFUSED
    if as_json:
        print(json.dumps(as_dict(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return REFUSED if found.refused else FINE


def lines(found: Plan) -> Iterator[str]:
    """A plan, to read."""
    if found.refused:
        yield "a reload would be refused:"
        for problem in found.refused:
            yield f"  {problem.path}: {problem.message}"
    elif found.empty:
        yield "a reload would change nothing"
    else:
        yield "a reload would change:"
        yield from (f"  {line}" for line in _changes(found))


def as_dict(found: Plan) -> dict[str, object]:
    """A plan, for machines: ``refused`` (why nothing would be applied), the upstreams that are ``removed``, ``opened``
    and ``changed``, and each key with another value in ``differences``."""
    return {
        "refused": [{"path": problem.path, "message": problem.message} for problem in found.refused],
        "removed": list(found.removed),
        "opened": list(found.opened),
        "changed": list(found.changed),
        "differences": [difference._asdict() for difference in found.differences],
    }


def _changes(found: Plan) -> Iterator[str]:
    yield from (f"upstreams.{name}: removed" for name in found.removed)
    yield from (f"upstreams.{name}: opened" for name in found.opened)
    # What belongs to an upstream that comes or goes as a whole is not told key by key.
    whole = {f"upstreams.{name}" for name in (*found.removed, *found.opened)}
    for difference in found.differences:
        if difference.path not in whole:
            yield f"{difference.path}: {difference}"


def _running(url: str, token_file: str) -> Config:
    """The configuration of the sidecar at ``url``. Raises :class:`SourceError`."""
    shown = Admin(url, token(token_file), "--against URL").ask("GET", "/config")
    try:
        return load_text(json.dumps(shown), url, {})
    except ConfigError as error:
        raise SourceError(f"{url} runs with a configuration that this version does not know: {error}") from error


def _as_shown(config: Config, filename: str) -> Config:
    """``config`` as the admin API would show it, so that the two can be compared."""
    return load_text(json.dumps(effective(config)), filename, {})
